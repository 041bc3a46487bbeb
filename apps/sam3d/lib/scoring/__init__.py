"""What Next Sample goes by: how unlike the labelled ones an image is, and how many clicks it will take."""
