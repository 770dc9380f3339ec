package org.quadloom.app;

import android.content.Context;
import java.io.File;
import org.quadloom.core.DeviceSettings;

/** What a person chose: the folder of the system property {@code chosen}, in which the data are. */
final class SavedSettings {
  private final File folder = new File(System.getProperty("chosen"));

  SavedSettings(Context context) {}

  DeviceSettings deviceSettings() {
    return new DeviceSettings("http://127.0.0.1:1", "phone", 1 << 20);
  }

  File dataFile() {
    return new File(folder, "data.jsonl");
  }

  File deviceFolder() {
    return new File(folder, "device");
  }
}
