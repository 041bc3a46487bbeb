#!/usr/bin/env bash
# See that what `make e2e` drives is there: Chromium, Orthanc, nginx and Caddy, installed with apt-get where that is
# allowed, and an OpenID provider, installed with npm beside its specs. Only Chromium must be: specs say what they lack.
#   CHROMIUM  the browser's program, if it is not on PATH (Debian's is not installed then)
set -euo pipefail
PATH=$PATH:/usr/sbin

provider=$(cd "$(dirname "${BASH_SOURCE[0]}")/../tests/e2e/openid" && pwd)
services=(orthanc nginx caddy)
packages=()
need() { # a program or file, and Debian's packages that bring it
    command -v "$1" >/dev/null || [ -e "$1" ] || packages+=("${@:2}")
}

need "${CHROMIUM:-chromium}" chromium fonts-dejavu-core
need Orthanc orthanc
need /usr/share/orthanc/plugins/libOrthancDicomWeb.so orthanc-dicomweb
need nginx nginx-light
need caddy caddy
need npm npm

as_root=()
if [ "$(id -u)" != 0 ]; then
    as_root=(sudo -n)
    sudo -n true 2>/dev/null || as_root=(false)
fi
if [ ${#packages[@]} != 0 ] && command -v apt-get >/dev/null && [ "${as_root[0]:-}" != false ]; then
    had=$(for name in "${services[@]}"; do command -v "$name" "${name^}" || true; done)
    "${as_root[@]}" apt-get -o Acquire::Retries=3 update -qq &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get -o Acquire::Retries=3 install -y -qq --no-install-recommends "${packages[@]}" >/dev/null || true
    # The specs start their own. The packages' services, which listen to other machines, are not wanted.
    for name in "${services[@]}"; do
        if ! grep -qi "/$name\$" <<<"$had" && [ -d /run/systemd/system ]; then
            "${as_root[@]}" systemctl disable --now --quiet "$name" || true
        fi
    done
fi
if ! cmp -s "$provider/package-lock.json" "$provider/node_modules/.installed"; then
    { npm ci --prefix "$provider" --ignore-scripts --no-audit --no-fund --silent &&
        cp "$provider/package-lock.json" "$provider/node_modules/.installed"; } ||
        echo "No OpenID provider, for npm did not install it: the specs of its login are skipped." >&2
fi
if ! command -v "${CHROMIUM:-chromium}" >/dev/null; then
    echo "The browser specs need Chromium: install Debian's packages ${packages[*]}, or name a program in CHROMIUM." >&2
    exit 1
fi
[ -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so ] ||
    echo "No Orthanc with its DICOMweb plugin: the specs use the app's own demo archive instead." >&2
