package org.quadloom.app;

import android.app.ActivityManager;
import android.content.Context;
import android.content.SharedPreferences;
import android.os.Build;
import java.io.File;
import org.quadloom.core.DeviceSettings;

/** What the person chose, and whether training is wanted; survives the process. */
final class SavedSettings {
  private static final long MEGABYTE = 1_000_000;

  private final Context context;
  private final SharedPreferences values;

  SavedSettings(Context context) {
    this.context = context.getApplicationContext();
    values = this.context.getSharedPreferences("settings", Context.MODE_PRIVATE);
  }

  String server() {
    return values.getString("server", "");
  }

  String deviceName() {
    return values.getString("device_name", Build.MODEL.replaceAll("[^A-Za-z0-9._-]", "-"));
  }

  String enrolmentToken() {
    return values.getString("enrolment_token", "");
  }

  String familyKey() {
    return values.getString("family_key", "");
  }

  int threads() {
    return values.getInt("threads", Math.max(1, Runtime.getRuntime().availableProcessors() / 2));
  }

  int memoryMb() {
    return values.getInt("memory_mb", quarterOfFreeMemoryMb());
  }

  boolean onlyWhenIdle() {
    return values.getBoolean("only_when_idle", false);
  }

  /** Whether the person wants the device to train; stays so until they stop it or the task ends. */
  boolean trainingWanted() {
    return values.getBoolean("training_wanted", false);
  }

  void setTrainingWanted(boolean wanted) {
    // Written before anything starts or ends: the process may be killed right after.
    values.edit().putBoolean("training_wanted", wanted).commit();
  }

  /** Keep what the screen shows. */
  void save(
      String server,
      String deviceName,
      String enrolmentToken,
      String familyKey,
      int threads,
      int memoryMb,
      boolean onlyWhenIdle) {
    values
        .edit()
        .putString("server", server)
        .putString("device_name", deviceName)
        .putString("enrolment_token", enrolmentToken)
        .putString("family_key", familyKey)
        .putInt("threads", threads)
        .putInt("memory_mb", memoryMb)
        .putBoolean("only_when_idle", onlyWhenIdle)
        .commit();
  }

  /** As the device loop takes them. */
  DeviceSettings deviceSettings() {
    DeviceSettings settings = new DeviceSettings(server(), deviceName(), memoryMb() * MEGABYTE);
    settings.threads = threads();
    settings.enrolmentToken = enrolmentToken().isEmpty() ? null : enrolmentToken();
    settings.familyKeyPem = familyKey().isEmpty() ? null : familyKey();
    return settings;
  }

  /** The local data, copied here when it was chosen. */
  File dataFile() {
    return new File(context.getNoBackupFilesDir(), "data.jsonl");
  }

  /** Key, files of the family and progress. */
  File deviceFolder() {
    return new File(context.getNoBackupFilesDir(), "device");
  }

  private int quarterOfFreeMemoryMb() {
    ActivityManager.MemoryInfo memory = new ActivityManager.MemoryInfo();
    ((ActivityManager) context.getSystemService(Context.ACTIVITY_SERVICE)).getMemoryInfo(memory);
    return (int) Math.max(16, memory.availMem / 4 / MEGABYTE);
  }
}
