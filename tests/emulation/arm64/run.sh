#!/bin/sh
# Runs `quadloom device` on emulated arm64 for a round against the real server, beside a native device.
# What that takes is fetched once into build/arm64, without root: QEMU's user-mode emulator, the Python of Debian 12 for
# arm64, and the packages that pip, itself emulated, takes for arm64.
# PYTHON names an interpreter with quadloom[dev], DEBIAN_MIRROR a mirror if apt knows none. Arguments go to pytest.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
work=$root/build/arm64
packages=$here/debian-packages.txt # SHA-256, name, version, architecture
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
device=$work/device
cd "$root"
python=${PYTHON:-python3}

stop() {
    echo "arm64-test: $1" >&2
    exit 1
}

check_machine() {
    [ "$(uname -sm)" = "Linux x86_64" ] || stop "the emulator is fetched for Linux on x86-64, this is $(uname -sm)"
    for tool in apt-get dpkg-deb sha256sum; do
        command -v "$tool" > /dev/null || stop "$tool is missing; it needs a Debian machine, or apt and dpkg on another"
    done
    [ -e "$keyring" ] || stop "$keyring is missing: install debian-archive-keyring"
    "$python" -c 'import pytest, torch' 2> /dev/null || stop "$python has no quadloom[dev]: run \`make setup\`"
}

# A second apt beside the system's, with lists of its own: Debian 13 for the emulator, Debian 12 for what it runs.
configure_apt() {
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 'Created-By: Packages' | head -n 1)}
    [ -n "$mirror" ] || stop "apt knows no Debian mirror: give its address as DEBIAN_MIRROR"
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial" "$work/packages"
    : > "$work/apt/status"
    cat > "$work/apt/sources.list" << END
deb [arch=amd64 signed-by=$keyring] $mirror trixie main
deb [arch=arm64 signed-by=$keyring] $mirror bookworm main
END
    cat > "$work/apt/apt.conf" << END
Dir::Etc::sourcelist "$work/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$work/apt";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
END
    export APT_CONFIG="$work/apt/apt.conf"
    apt-get update -qq || stop "apt cannot read the package lists of $mirror"
}

fetch_packages() {
    [ "$work/.packages" -nt "$packages" ] && return
    configure_apt
    rm -rf "$work/emulator" "$work/userland"
    mkdir -p "$work/emulator"
    cd "$work/packages"
    while read -r sha256 name version architecture; do
        file=${name}_$(echo "$version" | sed 's/:/%3a/')_$architecture.deb
        [ -e "$file" ] || apt-get download -qq "$name:$architecture=$version" ||
            stop "Debian has no $name $version any more: put what it has into $packages"
        echo "$sha256  $file" | sha256sum --quiet --check || stop "$work/packages/$file is not what $packages names"
        if [ "$architecture" = arm64 ]; then
            dpkg-deb --extract "$file" "$work/userland"
        else # of the emulators, one for each processor that there is, only this one
            dpkg-deb --fsys-tarfile "$file" | tar --extract --directory "$work/emulator" ./usr/bin/qemu-aarch64
        fi
    done < "$packages"
    cd "$root"
    touch "$work/.packages"
}

# A virtual environment whose interpreter starts the emulator, so that Python's own child processes start it, too.
make_environment() {
    rm -rf "$device"
    mkdir -p "$device/bin" "$device/lib/python3.11/site-packages"
    printf 'home = %s\ninclude-system-site-packages = false\n' "$work/userland/usr/bin" > "$device/pyvenv.cfg"
    cat > "$device/bin/python" << END
#!/bin/sh
unset PYTHONPATH # the native interpreter's
exec "$work/emulator/usr/bin/qemu-aarch64" -L "$work/userland" -0 "\$0" "$work/userland/usr/bin/python3.11" "\$@"
END
    chmod +x "$device/bin/python"
}

emulated_pip() {
    "$python" -m pip --quiet --disable-pip-version-check --python "$device/bin/python" "$@"
}

install_quadloom() {
    rm -rf "$work/wheel"
    mkdir -p "$work/wheel"
    printf '[build]\nbuild_base = %s\n' "$work/wheel/build" > "$work/wheel/setup.cfg"
    DIST_EXTRA_CONFIG="$work/wheel/setup.cfg" \
        "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$work/wheel" "$root"
    wheel=$(echo "$work"/wheel/quadloom-*.whl)
    installed=$device/.installed
    if [ "$installed" -nt constraints.txt ] && [ "$installed" -nt pyproject.toml ] && [ "$installed" -nt "$0" ] &&
        [ "$installed" -nt "$work/.packages" ]; then
        emulated_pip install --no-deps --force-reinstall "$wheel"
    else
        make_environment
        emulated_pip install --only-binary :all: --constraint constraints.txt "${wheel}[onnx]"
    fi
    touch "$installed"
}

check_machine
fetch_packages
install_quadloom
QUADLOOM_ARM64=$device/bin exec "$python" -m pytest -q "$here" "$@"
