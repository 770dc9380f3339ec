package org.quadloom.core;

import java.io.File;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.charset.StandardCharsets;
import java.nio.file.StandardOpenOption;

/**
 * What survives the death of the process: where the training of an assignment stood, an update that is not reported yet,
 * and how often the process died in the training. Each file is whole, sealed, and named after its assignment.
 */
final class DeviceState {
  private static final String CHECKPOINT = ".checkpoint";
  private static final String UPDATE = ".update";
  private static final String HERE = ".here";
  private static final String STARTS = ".starts";
  private static final int NAME_LETTERS = 32;

  private final File folder;

  DeviceState(File folder) {
    this.folder = folder;
  }

  /**
   * Keep every other loop out of the folder until the channel is closed.
   *
   * @throws QuadloomException another one is in
   */
  FileChannel lock() throws QuadloomException {
    DurableFiles.makeFolder(folder);
    File file = new File(folder, "lock");
    try {
      FileChannel channel =
          FileChannel.open(file.toPath(), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      FileLock lock = null;
      try {
        lock = channel.tryLock();
      } catch (OverlappingFileLockException error) {
        // Held by another loop of this process.
      }
      if (lock == null) {
        channel.close();
        throw new QuadloomException("another device uses " + folder, "wait until it has ended");
      }
      return channel;
    } catch (IOException error) {
      throw DurableFiles.failed(file, error);
    }
  }

  /** {@code hereBytes} as it was when the assignment was begun: after a death, what was said the first time. */
  long bytesHereAtFirst(String assignmentId, long hereBytes) throws QuadloomException {
    File file = file(assignmentId, HERE);
    byte[] noted = DurableFiles.readSealed(file);
    if (noted != null) {
      return Long.parseLong(new String(noted, StandardCharsets.US_ASCII));
    }
    DurableFiles.writeSealed(file, String.valueOf(hereBytes).getBytes(StandardCharsets.US_ASCII));
    return hereBytes;
  }

  /**
   * Note that training begins at a step, until {@link #noteStop}; returns how often it has begun there before without
   * getting to that, since the process died.
   */
  int noteStart(String assignmentId, int step) throws QuadloomException {
    File file = file(assignmentId, STARTS);
    byte[] noted = DurableFiles.readSealed(file);
    int deaths = 0;
    if (noted != null) {
      String[] figures = new String(noted, StandardCharsets.US_ASCII).split(" ");
      deaths = Integer.parseInt(figures[0]) == step ? Integer.parseInt(figures[1]) : 0;
    }
    DurableFiles.writeSealed(file, (step + " " + (deaths + 1)).getBytes(StandardCharsets.US_ASCII));
    return deaths;
  }

  /** Training has ended, in whatever way, and the process is alive. */
  void noteStop(String assignmentId) {
    file(assignmentId, STARTS).delete();
  }

  void saveCheckpoint(String assignmentId, Checkpoint checkpoint) throws QuadloomException {
    DurableFiles.writeSealed(file(assignmentId, CHECKPOINT), checkpoint.write());
  }

  /** Where an assignment stands; a fresh checkpoint if nothing, or nothing unaltered, is kept for it. */
  Checkpoint loadCheckpoint(String assignmentId) throws QuadloomException {
    byte[] content = DurableFiles.readSealed(file(assignmentId, CHECKPOINT));
    return content == null ? new Checkpoint() : Checkpoint.read(content);
  }

  /** Keep a finished update until the server has it. */
  void saveUpdate(String assignmentId, byte[] content) throws QuadloomException {
    DurableFiles.writeSealed(file(assignmentId, UPDATE), content);
  }

  /** The finished update of an assignment, null if there is none. */
  byte[] loadUpdate(String assignmentId) {
    return DurableFiles.readSealed(file(assignmentId, UPDATE));
  }

  /** Remove what belongs to other assignments; null removes everything. */
  void forgetAllBut(String assignmentId) {
    File[] files = folder.listFiles();
    for (File file : files == null ? new File[0] : files) {
      boolean isKept = assignmentId != null && file.getName().startsWith(name(assignmentId));
      if (!isKept && file.getName().contains(".")) {
        file.delete();
      }
    }
  }

  private File file(String assignmentId, String suffix) {
    return new File(folder, name(assignmentId) + suffix);
  }

  private static String name(String assignmentId) {
    // The server chose the id: it must not name a path.
    return Hashes.hex(Hashes.sha256(assignmentId.getBytes(StandardCharsets.UTF_8))).substring(0, NAME_LETTERS);
  }
}
