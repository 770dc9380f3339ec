package org.quadloom.core;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Arrays;

/** Files that are whole or absent, and still there after the power was gone. */
final class DurableFiles {
  private static final String UNFINISHED_SUFFIX = ".unfinished";
  private static final int SEAL_BYTES = 32;

  private DurableFiles() {}

  static void makeFolder(File folder) throws QuadloomException {
    if (!folder.mkdirs() && !folder.isDirectory()) {
      throw new QuadloomException("the folder " + folder + " cannot be made", "free storage, or name another folder");
    }
  }

  /** Write a file so that it has either the old or the new content, never a part. */
  static void write(File file, byte[] content) throws QuadloomException {
    write(file, content, false);
  }

  /** The same, and only its owner can read it. */
  static void writePrivate(File file, byte[] content) throws QuadloomException {
    write(file, content, true);
  }

  private static void write(File file, byte[] content, boolean isPrivate) throws QuadloomException {
    makeFolder(file.getParentFile());
    File unfinished = new File(file.getPath() + UNFINISHED_SUFFIX);
    try {
      try (FileOutputStream out = new FileOutputStream(unfinished)) {
        if (isPrivate && !(unfinished.setReadable(false, false) && unfinished.setReadable(true, true))) {
          throw new IOException("it cannot be kept from others");
        }
        out.write(content);
        out.getFD().sync();
      }
      rename(unfinished, file);
    } catch (IOException error) {
      unfinished.delete();
      throw failed(file, error);
    }
  }

  static void rename(File source, File target) throws IOException {
    Files.move(source.toPath(), target.toPath(), StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
    try (FileChannel folder = FileChannel.open(target.getParentFile().toPath(), StandardOpenOption.READ)) {
      folder.force(true);
    } catch (IOException error) {
      // Not every platform opens a folder. Without this, a power cut may bring the old content back, which is whole too.
    }
  }

  /** Write content and its SHA-256, both or neither. */
  static void writeSealed(File file, byte[] content) throws QuadloomException {
    byte[] sealed = Arrays.copyOf(content, content.length + SEAL_BYTES);
    System.arraycopy(Hashes.sha256(content), 0, sealed, content.length, SEAL_BYTES);
    write(file, sealed);
  }

  /** The content of a sealed file; null if it is absent, unreadable or altered. */
  static byte[] readSealed(File file) {
    byte[] sealed;
    try {
      sealed = Files.readAllBytes(file.toPath());
    } catch (IOException error) {
      return null;
    }
    if (sealed.length < SEAL_BYTES) {
      return null;
    }
    byte[] content = Arrays.copyOf(sealed, sealed.length - SEAL_BYTES);
    byte[] seal = Arrays.copyOfRange(sealed, content.length, sealed.length);
    return Arrays.equals(Hashes.sha256(content), seal) ? content : null;
  }

  static QuadloomException failed(File file, IOException error) {
    return new QuadloomException("the storage does not take " + file + ": " + error.getMessage(), "free some of it");
  }
}
