package org.quadloom.app;

import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.net.ConnectivityManager;
import android.net.NetworkInfo;
import android.os.BatteryManager;
import android.os.PowerManager;
import java.util.ArrayList;
import java.util.List;

/** When the phone may train: charging, on a network without a meter and, if so chosen, while nobody looks at it. */
final class Conditions {
  private final Context context;
  private final SavedSettings settings;

  Conditions(Context context) {
    this.context = context;
    settings = new SavedSettings(context);
  }

  /** What is missing now, in words; empty if the phone may train. */
  List<String> missing() {
    List<String> missing = new ArrayList<>();
    if (!((BatteryManager) context.getSystemService(Context.BATTERY_SERVICE)).isCharging()) {
      missing.add("a charger");
    }
    ConnectivityManager network = (ConnectivityManager) context.getSystemService(Context.CONNECTIVITY_SERVICE);
    NetworkInfo active = network.getActiveNetworkInfo();
    if (active == null || !active.isConnected() || network.isActiveNetworkMetered()) {
      missing.add("a network without a meter");
    }
    if (settings.onlyWhenIdle()
        && ((PowerManager) context.getSystemService(Context.POWER_SERVICE)).isInteractive()) {
      missing.add("the screen to be off");
    }
    return missing;
  }

  /** The system's broadcasts after which the answer may be another. */
  static IntentFilter changes() {
    IntentFilter changes = new IntentFilter();
    changes.addAction(BatteryManager.ACTION_CHARGING);
    changes.addAction(BatteryManager.ACTION_DISCHARGING);
    changes.addAction(ConnectivityManager.CONNECTIVITY_ACTION);
    changes.addAction(Intent.ACTION_SCREEN_ON);
    changes.addAction(Intent.ACTION_SCREEN_OFF);
    return changes;
  }
}
