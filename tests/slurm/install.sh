#!/bin/sh
# Installs what the Slurm tests need on Debian (as root). No service is started: the tests start their own daemons.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck disable=SC2046 # one word for each package
exec sh "$here/../install_packages.sh" $(cat "$here/packages.txt")
