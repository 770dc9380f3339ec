package android.content;

import android.os.PowerManager;

/** What a training thread asks of Android. */
public final class Context {
  public static final String POWER_SERVICE = "power";

  public Object getSystemService(String name) {
    return new PowerManager();
  }

  public String getString(int id) {
    return "text " + id;
  }
}
