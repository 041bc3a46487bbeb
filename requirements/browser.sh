#!/usr/bin/env bash
# See that Chromium and Orthanc are there, which the browser specs drive: installed with apt-get where that is allowed.
#   CHROMIUM  the browser's program, if it is not on PATH (nothing is installed then)
set -euo pipefail

has_all() {
    { [ -x "${CHROMIUM:-}" ] || command -v chromium; } >/dev/null &&
        [ -x /usr/sbin/Orthanc ] && [ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ]
}

packages=(chromium orthanc orthanc-dicomweb fonts-dejavu-core)
if has_all; then
    exit 0
fi
as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || as_root=(false)
fi
if command -v apt-get >/dev/null && [ "${as_root[0]:-}" != false ]; then
    # A container's policy may forbid to start services, which nobody here wants: Orthanc is started by the specs.
    "${as_root[@]}" apt-get update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
fi
if command -v chromium >/dev/null || [ -x "${CHROMIUM:-}" ]; then
    has_all || echo "No Orthanc with its DICOMweb plugin: the specs use the app's own demo archive instead." >&2
    exit 0
fi
echo "The browser specs need Chromium: install Debian's packages ${packages[*]}, or name a program in CHROMIUM." >&2
exit 1
