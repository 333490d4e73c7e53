# shellcheck shell=bash
# Sourced by the other scripts: where things are, and how to speak.

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
GOLIATH_CACHE=${GOLIATH_CACHE:-${HOME:-/root}/.cache/goliath}
export TOP GOLIATH_CACHE

# What a line begins with.
SPEAKER=${0##*/}

say() { printf '%s: %s\n' "$SPEAKER" "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# One builder at a time; a second one waits, then finds the work done.
lock() {
    mkdir -p "$GOLIATH_CACHE"
    exec 9>"$GOLIATH_CACHE/.$1.lock"
    flock 9
}

# The mirror that this machine's apt uses for a Debian archive: `Debian`, `Debian-Security`, `Debian Backports`. A disc
# that Debian was installed from is none.
debian_mirror() {
    # shellcheck disable=SC2016 # apt expands these
    apt-get indextargets --format '$(LABEL)|$(REPO_URI)' 'Identifier: Packages' |
        awk -F'|' -v label="$1" '$1 == label && $2 !~ /^cdrom:/ { sub("/$", "", $2); print $2; exit }'
}
