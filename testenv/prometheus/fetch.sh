#!/bin/sh
# Debian's Prometheus, without its service: the program is all that a test needs.
set -eu
apt-get download --quiet prometheus || {
    apt-get update --quiet
    apt-get download --quiet prometheus
}
dpkg-deb --extract prometheus_*.deb .
rm prometheus_*.deb
