package org.quadloom.app;

import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.util.List;
import org.quadloom.core.Example;
import org.quadloom.core.ExampleLines;
import org.quadloom.core.QuadloomException;

/** The local text, copied into the app's own storage when it is chosen. */
final class ExampleFile {
  private ExampleFile() {}

  /**
   * Every example of a file.
   *
   * @throws QuadloomException it cannot be read, or a line is no example
   */
  static List<Example> read(File file) throws QuadloomException {
    try {
      return ExampleLines.read(Files.readAllBytes(file.toPath()));
    } catch (IOException error) {
      throw new QuadloomException("the data cannot be read: " + error.getMessage(), "choose the data again");
    }
  }

  /**
   * Copy chosen data to where {@link #read} finds it; what was there before stays until the copy is complete and good.
   *
   * @return how many examples it holds
   * @throws QuadloomException it cannot be copied, or is no data
   */
  static int keep(InputStream chosen, File file) throws QuadloomException {
    File copy = new File(file.getPath() + ".new");
    try (FileOutputStream out = new FileOutputStream(copy)) {
      byte[] piece = new byte[1 << 16];
      for (int count = chosen.read(piece); count >= 0; count = chosen.read(piece)) {
        out.write(piece, 0, count);
      }
      out.getFD().sync();
    } catch (IOException error) {
      throw new QuadloomException("the data cannot be copied: " + error.getMessage(), "make room, or choose another file");
    }
    int examples = read(copy).size();
    if (!copy.renameTo(file)) {
      throw new QuadloomException("the data cannot be put at " + file, "clear the app's storage");
    }
    return examples;
  }
}
