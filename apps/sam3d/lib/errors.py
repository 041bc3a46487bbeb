"""What can go wrong, as one tree. Every message names the value at fault and the way out.

Sam3DError
 ├── SettingsError   a conf key or value that cannot be used
 ├── VolumeError     an image or label file that cannot be a 3D volume
 ├── LabelError      a label file that does not fit its image, or whose values have no names
 ├── SplitError      a record of training and validation cases that cannot be trusted
 ├── RequestError    a name, a tag or a JSON text of a request that cannot be one
 ├── PromptError     clicks, boxes or label names that make no sense for the image
 ├── GeometryError   a box, grid or affine outside what it is used on
 ├── WeightsError    a checkpoint that is missing, damaged, unsafe or made for another network
 ├── TrainingError   labelled cases or a machine that no training can be done with
 ├── ClusterError    other machines that are not there, or not fit to work with this one
 └── BackupError     a backup that cannot be made, or put back
"""


class Sam3DError(Exception):
    """Base of all errors a user can cause; the message is one sentence meant for that user."""


class SettingsError(Sam3DError):
    """A setting is unknown or its value is out of range."""


class VolumeError(Sam3DError):
    """A file does not hold a usable 3D volume."""


class LabelError(Sam3DError):
    """A label file cannot be read, does not lie where its image does, or holds values that nobody named."""


class SplitError(Sam3DError):
    """The record of which cases train and which validate is damaged."""


class RequestError(Sam3DError):
    """A name or a JSON text that came from outside cannot be used."""


class PromptError(Sam3DError):
    """A request's clicks, box or labels cannot be understood."""


class GeometryError(Sam3DError):
    """An affine is singular, or a box lies outside of its volume."""


class WeightsError(Sam3DError):
    """A checkpoint cannot be loaded into the network it was named for."""


class BackupError(Sam3DError):
    """A backup is damaged, or is in the way of what is there."""


class ClusterError(Sam3DError):
    """Other machines are away, unfit, or asked for what they cannot do."""


class TrainingError(Sam3DError):
    """A training run cannot start or go on."""
