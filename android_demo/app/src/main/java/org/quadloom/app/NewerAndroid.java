package org.quadloom.app;

import android.app.Notification;
import android.app.NotificationManager;
import android.content.Context;
import android.content.Intent;

/**
 * Calls that are in every Android this app runs on (8.0, API 26), but not in API 23, against which it compiles offline:
 * Debian has no newer one.
 */
final class NewerAndroid {
  private static final int IMPORTANCE_LOW = 2;

  private NewerAndroid() {}

  /** {@code Context.startForegroundService}; from Android 12 on it throws an IllegalStateException where it may not. */
  static void startForegroundService(Context context, Intent intent) {
    try {
      Context.class.getMethod("startForegroundService", Intent.class).invoke(context, intent);
    } catch (java.lang.reflect.InvocationTargetException error) {
      if (error.getCause() instanceof RuntimeException) {
        throw (RuntimeException) error.getCause();
      }
      throw new AssertionError(error);
    } catch (ReflectiveOperationException error) {
      throw new AssertionError(error);
    }
  }

  /** A channel of notifications that make no sound. */
  static void createQuietChannel(NotificationManager manager, String id, CharSequence name) {
    try {
      Class<?> type = Class.forName("android.app.NotificationChannel");
      Object channel =
          type.getConstructor(String.class, CharSequence.class, int.class).newInstance(id, name, IMPORTANCE_LOW);
      NotificationManager.class.getMethod("createNotificationChannel", type).invoke(manager, channel);
    } catch (ReflectiveOperationException error) {
      throw new AssertionError(error);
    }
  }

  /** {@code new Notification.Builder(context, channel)}. */
  static Notification.Builder notificationBuilder(Context context, String channel) {
    try {
      return Notification.Builder.class.getConstructor(Context.class, String.class).newInstance(context, channel);
    } catch (ReflectiveOperationException error) {
      throw new AssertionError(error);
    }
  }
}
