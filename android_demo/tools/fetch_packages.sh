#!/usr/bin/env bash
# Brings the packages of packages.txt into a folder, each checked against its SHA-256, and unpacks what the build uses.
# Nothing is installed. Usage: fetch_packages.sh FOLDER. Exits with status 3 where a package cannot be had.
set -euo pipefail
pins="$(dirname "$(readlink -f "$0")")/packages.txt"
folder="$(mkdir -p "$1" && readlink -f "$1")"

main() {
    local source name version sha256
    exec 9> "$folder/lock"
    flock 9 # one at a time
    while read -r source name version sha256; do
        [[ $source == \#* ]] && continue
        if ! is_intact "$name" "$sha256"; then
            echo "fetching $name $version from $source" >&2
            "fetch_from_$source" "$name" "$version"
            is_intact "$name" "$sha256" || fail "$name $version has another SHA-256 than packages.txt states" \
                "do not build from it; compare with another mirror"
        fi
        # A folder is renamed into place when it is complete, so that an interrupted run leaves none by that name.
        if [[ ! -e $folder/unpacked/$sha256 ]]; then
            rm -rf "$folder/unpacking"
            mkdir -p "$folder/unpacking" "$folder/unpacked"
            "unpack_from_$source" "$folder/$name.package" "$folder/unpacking"
            mv "$folder/unpacking" "$folder/unpacked/$sha256"
        fi
        ln -sfn "unpacked/$sha256" "$folder/$name"
    done < "$pins"
}

is_intact() { # name, sha256
    [[ -f $folder/$1.package ]] && sha256sum --check --quiet --status <<< "$2  $folder/$1.package"
}

fetch_from_npm() { # name, version
    local packed
    packed="$(cd "$folder" && npm pack --silent "$1@$2")" ||
        status=3 fail "npm pack $1@$2 failed" "install npm, or look at its registry setting"
    mv "$folder/$packed" "$folder/$1.package"
}

fetch_from_debian() { # name, version
    older_release
    # apt leaves the file in the current folder.
    (cd "$older" && apt-get --config-file apt.conf --quiet=2 download "$1=$2" 2> /dev/null) ||
        status=3 fail "apt-get download $1=$2 failed" "look at whether this machine's Debian mirror still has bullseye"
    mv "$older/$1"_*.deb "$folder/$1.package"
}

# An apt configuration of its own, for bullseye on the mirror that this machine uses; the system's stays untouched.
older_release() {
    older="$folder/bullseye"
    [[ -e $older/ready ]] && return
    local mirror
    mirror="$(apt-get indextargets --format '$(COMPONENT) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "main" && $2 !~ /-/ && $3 ~ /debian\/?$/ {print $3; exit}')"
    [[ -n $mirror ]] || status=3 fail "no Debian mirror among this machine's package sources" "build on Debian"
    mkdir -p "$older/lists/partial" "$older/cache/archives/partial"
    echo "deb $mirror bullseye main" > "$older/sources.list"
    cat > "$older/apt.conf" << END
Dir::Etc::sourcelist "$older/sources.list";
Dir::Etc::sourceparts "-";
Dir::State::lists "$older/lists";
Dir::Cache "$older/cache";
END
    apt-get --config-file "$older/apt.conf" --quiet=2 update ||
        status=3 fail "apt-get update for bullseye failed" "look at whether this machine's Debian mirror still has bullseye"
    touch "$older/ready"
}

unpack_from_debian() { dpkg-deb --extract "$1" "$2"; } # package, folder

# Of the packages' hundreds of megabytes only what goes into the APK.
unpack_from_npm() { # package, folder
    tar --extract --gzip --file "$1" --directory "$2" --strip-components 1 --wildcards \
        'package/package.json' '*/android/libs/*.jar' '*/libs/executorch/*.so' '*/react-native-*-release.aar' 2> /dev/null ||
        true # one of the patterns matches nothing in each package
    local archive
    find "$2" -name '*.aar' | while read -r archive; do
        (cd "$2" && jar --extract --file "$archive" jni/arm64-v8a jni/x86_64)
        rm "$archive"
    done
}

fail() { # cause, remedy
    echo "fetch_packages.sh: $1; $2" >&2
    exit "${status:-1}"
}

main
