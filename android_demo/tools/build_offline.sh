#!/usr/bin/env bash
# Builds, signs and verifies build/android/quadloom.apk without the Android SDK: tools from Debian, native libraries from
# npm, pinned by hash in packages.txt. Usage: build_offline.sh [OUT [PACKAGES]]; downloads are kept in PACKAGES. Exits with
# status 3 where the tools or the packages cannot be had.
set -euo pipefail
tools="$(dirname "$(readlink -f "$0")")"
demo="$(dirname "$tools")"
out="$(mkdir -p "${1:-$demo/../build/android}" && readlink -f "${1:-$demo/../build/android}")"
packages="${2:-$out/packages}"
work="$out/work"
apk="$out/quadloom.apk"

minimum_sdk=26
target_sdk=35
application=org.quadloom.app
abis="arm64-v8a x86_64"

main() {
    require_tools
    "$tools/fetch_packages.sh" "$packages"
    android_jar="$packages/libandroid-23-java/usr/lib/android-sdk/platforms/android-23/android.jar"
    dx_jar="$packages/dalvik-exchange/usr/share/java/com.android.dx.jar"
    framework="$packages/android-framework-res/usr/share/android-framework-res/framework-res.apk"
    executorch_jar="$packages/react-native-executorch/android/libs/classes.jar"
    rm -rf "$work" "$apk"
    mkdir -p "$work"
    link_resources
    compile_java
    require_every_class
    make_dex
    add_native_libraries
    sign
    verify
}

require_tools() {
    local command missing=""
    for command in aapt2 zipalign apksigner dexdump javac jar jdeps keytool zip npm; do
        command -v "$command" > /dev/null || missing+=" $command"
    done
    [[ -z $missing ]] || status=3 fail "not installed:$missing" \
        "apt-get install aapt zipalign apksigner dexdump openjdk-17-jdk-headless zip npm"
}

# Manifest and resources, against the framework of Android 10, the newest in Debian.
link_resources() {
    local sources="$demo/app/src/main"
    aapt2 compile --dir "$sources/res" -o "$work/resources.zip"
    # Gradle takes the package from build.gradle and wants none here; aapt2 wants it here.
    sed "s/<manifest /<manifest package=\"$application\" /" "$sources/AndroidManifest.xml" > "$work/AndroidManifest.xml"
    aapt2 link -I "$framework" --manifest "$work/AndroidManifest.xml" --java "$work/generated" \
        --min-sdk-version "$minimum_sdk" --target-sdk-version "$target_sdk" --version-code 1 --version-name 1.0 \
        -o "$work/unsigned.apk" "$work/resources.zip"
}

compile_java() {
    local sources="src/main/java" offline="$demo/app/offline"
    # The core alone first: it must know nothing of Android.
    compile "$work/core" "" "$demo/core/$sources"
    compile "$work/signatures" "" "$offline/onnxruntime"
    compile "$work/app" "$work/core:$work/signatures:$android_jar:$executorch_jar" \
        "$demo/app/$sources" "$work/generated" "$offline/fbjni"
}

compile() { # folder, class path, folders of sources
    local folder="$1" classpath="$2"
    shift 2
    find "$@" -name '*.java' -printf '"%p"\n' > "$folder.sources"
    # Java 8 is the last that dx understands; javac 17 says that it is old, and that annotations lack their classes.
    javac --release 8 -Xlint:-options -nowarn -implicit:none -encoding UTF-8 -d "$folder" -classpath "$classpath" \
        "@$folder.sources" 2> "$folder.log" || { cat "$folder.log" >&2; exit 1; }
}

# A class that something refers to and nobody has would show on the phone only. ONNX Runtime is looked for at run time.
require_every_class() {
    local missing
    missing="$(jdeps --missing-deps -cp "$android_jar" "$work/core" "$work/app" "$executorch_jar" 2> /dev/null |
        grep -- '->' | grep -v -e '-> not found' -e '-> ai\.onnxruntime\.')" || return 0
    fail "classes that nobody has: $missing" "use others, or add their library"
}

make_dex() {
    java -cp "$dx_jar" com.android.dx.command.Main --dex --min-sdk-version="$minimum_sdk" \
        --output="$work/classes.dex" "$work/core" "$work/app" "$executorch_jar"
    (cd "$work" && zip --quiet unsigned.apk classes.dex)
}

add_native_libraries() {
    local abi
    for abi in $abis; do
        mkdir -p "$work/lib/$abi"
        # Java loads it as `executorch`, whatever its own name inside is.
        cp "$packages/react-native-executorch/third-party/android/libs/executorch/$abi/libexecutorch.so" \
            "$packages/react-native/jni/$abi/libfbjni.so" "$packages/react-native/jni/$abi/libc++_shared.so" \
            "$work/lib/$abi/"
    done
    (cd "$work" && zip --quiet --recurse-paths unsigned.apk lib)
}

sign() {
    local key="$out/debug.keystore"
    # Of this machine and no secret; kept, so that a later build installs over this one.
    [[ -e $key ]] || keytool -genkeypair -keystore "$key" -storepass android -alias debug -keyalg RSA -keysize 2048 \
        -validity 10000 -dname "CN=Quadloom debug" > "$work/keytool.log" 2>&1
    zipalign -p 4 "$work/unsigned.apk" "$work/aligned.apk"
    apksigner sign --ks "$key" --ks-pass pass:android --min-sdk-version "$minimum_sdk" \
        --v1-signing-enabled false --v2-signing-enabled true --v3-signing-enabled true \
        --out "$apk" "$work/aligned.apk"
}

verify() {
    zipalign -c -p 4 "$apk" || fail "the APK is not aligned" "look at how zipalign was called"
    apksigner verify --verbose --min-sdk-version "$minimum_sdk" "$apk" | grep -E '^Verif'
    aapt2 dump badging "$apk" | grep -E '^(package|sdkVersion|targetSdkVersion|native-code|launchable-activity)'
    (cd "$work" && dexdump -d classes.dex > dex.txt) || fail "classes.dex cannot be read" "look at what dx said"
    ! grep -q 'invoke-custom' "$work/dex.txt" || fail "the code has lambdas" \
        "write anonymous classes: Android has no factory for what javac makes of lambdas"
    echo "classes: $(grep -c 'Class descriptor' "$work/dex.txt")"
    echo "APK: $apk, $(stat --format %s "$apk") bytes, built and signed here, never run on a phone by us"
}

fail() { # cause, remedy
    echo "build_offline.sh: $1; $2" >&2
    exit "${status:-1}"
}

main
