# shellcheck shell=bash
# What the scripts beside this file share; they source it. Sets `root` (the checkout) and `target` (where cargo builds).

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in
    /*) ;;
    *) target=$PWD/$target ;;
esac
export CARGO_TARGET_DIR=$target

# Runs cargo in the checkout, from whatever folder.
in_root() {
    (cd -- "$root" && "$@")
}

# Builds for release what the given packages hold. Cargo speaks only if there is something to say.
build_release() {
    local packages=()
    local package
    for package in "$@"; do
        packages+=(--package "$package")
    done
    in_root cargo build --release --quiet "${packages[@]}"
}

# Makes a folder of its own for a run, and prints its path.
own_folder() {
    mktemp -d "${TMPDIR:-/tmp}/theseus-$1.XXXXXX"
}

# Copies plugins that were built for release into a folder below the given one, without what only debuggers read, as they
# would be delivered. Prints the folder.
stripped_plugins() {
    local folder=$1/plugins plugin
    shift
    mkdir -p -- "$folder"
    for plugin in "$@"; do
        strip -o "$folder/lib$plugin.so" -- "$target/release/lib$plugin.so"
    done
    printf '%s\n' "$folder"
}

# Ends with status 2 after showing how a script is used: the comment at its top.
usage() {
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
