#!/bin/sh
# Installs the Debian packages that tests use and that are missing: those given, or those of debian-packages.txt. Starts
# no service.
# Where that is not possible, tests that need one are skipped and say so; on CI (CI is set) they fail.
set -u
cd "$(dirname "$0")" || exit 1
packages=${*:-$(cat debian-packages.txt)}
command -v dpkg-query > /dev/null || { echo "no Debian: install yourself what tests use:" $packages >&2; exit 0; }
missing=""
for package in $packages; do
    dpkg-query --show --showformat '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get > /dev/null; then
    echo "missing for some tests:$missing (as root: apt-get install$missing)" >&2
    exit 0
fi
echo "installing$missing ..."
# Debian starts the services it installs, unless this says that it may not.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' > "$policy"; chmod +x "$policy"; trap 'rm -f "$policy"' EXIT; }
apt-get update -qq > /dev/null 2>&1 || echo "could not update the list of packages" >&2
# One after another: where there is no package of one name, apt-get installs none of them.
for package in $missing; do
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" > /dev/null 2>&1 \
        || echo "could not install $package: tests that need it are skipped, or fail on CI" >&2
done
exit 0
