package android.util;

/** The only class of Android that ExecuTorch's Java calls. */
public final class Log {
  private Log() {}

  public static int e(String tag, String message) {
    System.err.println(tag + ": " + message);
    return 0;
  }
}
