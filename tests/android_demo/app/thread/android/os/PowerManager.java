package android.os;

/** A machine that stays awake anyway. */
public final class PowerManager {
  public static final int PARTIAL_WAKE_LOCK = 1;

  public WakeLock newWakeLock(int level, String tag) {
    return new WakeLock();
  }

  public static final class WakeLock {
    public void acquire() {}

    public void release() {}
  }
}
