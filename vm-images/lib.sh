# shellcheck shell=bash
# Sourced by the recipes: an image is built once for what it is made from.

# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../scripts/lib.sh"

# Debian 13's cloud kernel: FUSE, virtiofs, ext4 and virtio-serial are built in.
KERNEL_SUITE=trixie

# Prints the directory that holds `vmlinuz`, `modules/<release>/` and `version`. It is fetched once, by an apt with
# sources of its own, which verifies Debian's signatures; `REFRESH=1` asks for a newer one. Debian's mirrors keep no older
# ones, so it cannot be pinned: which one it is, is written down.
kernel() {
    local directory=$GOLIATH_CACHE/kernel work mirror security package
    if [[ -s $directory/version && -z ${REFRESH:-} ]]; then
        echo "$directory"
        return
    fi
    mirror=$(debian_mirror Debian)
    security=$(debian_mirror Debian-Security)
    [[ -n $mirror && -n $security ]] ||
        die "apt knows no Debian and Debian-Security archive: give it both and run apt-get update"
    work=$(mktemp -d)
    mkdir -p "$work/lists/partial" "$work/archives/partial" "$work/sources"
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n\n' \
        "$mirror" $KERNEL_SUITE /usr/share/keyrings/debian-archive-keyring.gpg \
        "$security" $KERNEL_SUITE-security /usr/share/keyrings/debian-archive-keyring.gpg \
        >"$work/sources/debian.sources"
    cat >"$work/apt.conf" <<EOF
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/sources";
Dir::State::lists "$work/lists";
Dir::State::status "/dev/null";
Dir::Cache "$work";
Acquire::Languages "none";
APT::Architecture "amd64";
APT::Sandbox::User "";
EOF
    say "fetching Debian $KERNEL_SUITE's cloud kernel"
    (
        cd "$work" || exit
        export APT_CONFIG=$work/apt.conf
        apt-get -qq update >&2
        package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends:/ { print $2; exit }')
        apt-get -qq download "$package" >&2
        apt-cache show --no-all-versions "$package" |
            awk '/^(Package|Version|SHA256):/ { found[$1] = $2 }
                END { print found["Package:"], found["Version:"], "sha256:" found["SHA256:"] }' >version
    )
    dpkg-deb --extract "$work"/linux-image-*.deb "$work/root"
    mkdir "$work/kernel"
    mv "$work"/root/boot/vmlinuz-* "$work/kernel/vmlinuz"
    mv "$work/root/usr/lib/modules" "$work/kernel/modules"
    mv "$work/version" "$work/kernel/version"
    rm -rf "$directory"
    mv "$work/kernel" "$directory"
    rm -rf "$work"
    echo "$directory"
}

# Copies one module of a kernel, unpacked, to a file: module KERNEL NAME FILE
module() {
    local packed
    packed=$(find "$1/modules" -name "$2.ko.xz" -print -quit)
    [[ -n $packed ]] || die "the kernel has no module $2"
    xz --decompress --stdout "$packed" >"$3"
}

# An initramfs of a directory, the same bytes for the same files: initramfs DIRECTORY FILE
initramfs() {
    find "$1" -exec touch --no-dereference --date=@0 {} +
    (cd "$1" && find . -mindepth 1 -print0 | LC_ALL=C sort -z |
        cpio --quiet --null --create --format=newc --owner=0:0 --reproducible) | zstd --quiet -19 -T1 >"$2"
}

# A digest of files and directories, by content.
digest_of() {
    find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sed "s|$TOP/||" | sha256sum | cut -d' ' -f1
}

# Whether the image NAME was made from what KEY stands for: is_built NAME KEY
is_built() {
    local index=$GOLIATH_CACHE/images/$1/index.json
    [[ -e $index && $(cat "$GOLIATH_CACHE/images/.$1.key" 2>/dev/null) == "$2" ]]
}

# Packs DIRECTORY as the image NAME: package NAME KEY DIRECTORY gzip|none [LABEL]...
package() {
    local name=$1 key=$2 directory=$3 images=$GOLIATH_CACHE/images digest
    shift 3
    mkdir -p "$images"
    rm -rf "$images/.$name.new" "$images/.$name.old"
    digest=$("$TOP/scripts/oci-layout" "$directory" "$images/.$name.new" "$@")
    # The key goes first and comes last: an interrupted swap is built again.
    rm -f "$images/.$name.key"
    [[ ! -e $images/$name ]] || mv -T "$images/$name" "$images/.$name.old"
    mv -T "$images/.$name.new" "$images/$name"
    echo "$key" >"$images/.$name.key"
    rm -rf "$images/.$name.old"
    say "oci-layout:$images/$name:latest@$digest"
}
