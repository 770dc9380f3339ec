package org.quadloom.app.runtimes;

import java.util.regex.Pattern;
import org.quadloom.core.Member;
import org.quadloom.core.QuadloomException;
import org.quadloom.core.StepOutOfMemoryException;

/** What a runtime's errors mean. */
final class Failures {
  static final String FETCH_AGAIN = "check the family with `quadloom inspect DIR --verify`, and fetch it again";

  /** How ExecuTorch (0x21), ONNX Runtime and the C++ library say that memory was refused. */
  private static final Pattern REFUSED_MEMORY =
      Pattern.compile("bad_alloc|0x21\\b|MemoryAllocation|[Ff]ailed to allocate|not enough memory");

  private Failures() {}

  /** The error as this project says it. */
  static QuadloomException translated(Member member, String what, Throwable error) {
    String detail = String.valueOf(error.getMessage());
    if (error instanceof OutOfMemoryError || REFUSED_MEMORY.matcher(detail).find()) {
      return new StepOutOfMemoryException(member.key.label(), detail);
    }
    return new QuadloomException(what + ": " + detail, FETCH_AGAIN);
  }
}
