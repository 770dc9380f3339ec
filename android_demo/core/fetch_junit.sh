#!/bin/sh
# Print the class path of JUnit 4: Debian's if it is installed, else unpacked from Debian's packages into FOLDER.
# Usage: fetch_junit.sh FOLDER
set -eu
folder=$1

class_path() {
    echo "$1/usr/share/java/junit4.jar:$1/usr/share/java/hamcrest.jar"
}

for root in "" "$folder"; do
    if [ -e "$root/usr/share/java/junit4.jar" ] && [ -e "$root/usr/share/java/hamcrest.jar" ]; then
        class_path "$root"
        exit
    fi
done
mkdir -p "$folder"
cd "$folder"
apt-get download junit4 libhamcrest-java >&2
for package in *.deb; do
    dpkg-deb -x "$package" .
done
class_path "$folder"
