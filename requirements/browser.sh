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
    had_orthanc=$([ -x /usr/sbin/Orthanc ] && echo yes || echo no)
    "${as_root[@]}" apt-get -o Acquire::Retries=3 update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
    # The specs start an Orthanc of their own. The package's service, which listens to other machines, is not wanted.
    if [ "$had_orthanc" = no ] && [ -d /run/systemd/system ]; then
        "${as_root[@]}" systemctl disable --now --quiet orthanc || true
    fi
fi
if command -v chromium >/dev/null || [ -x "${CHROMIUM:-}" ]; then
    has_all || echo "No Orthanc with its DICOMweb plugin: the specs use the app's own demo archive instead." >&2
    exit 0
fi
echo "The browser specs need Chromium: install Debian's packages ${packages[*]}, or name a program in CHROMIUM." >&2
exit 1
