package org.quadloom.app;

import android.app.Notification;
import android.app.NotificationManager;
import android.app.PendingIntent;
import android.content.Context;
import android.content.Intent;

/** What the app shows outside of its screen. */
final class Notifications {
  /** Of the service in the foreground, whose notification goes with it. */
  static final int TRAINING_ID = 1;

  private static final int WORD_ID = 2;
  private static final String CHANNEL = "training";
  private static final long SHORTEST_INTERVAL_MS = 1000;

  private final Context context;
  private final NotificationManager manager;
  private long shownAtMs;

  Notifications(Context context) {
    this.context = context;
    manager = (NotificationManager) context.getSystemService(Context.NOTIFICATION_SERVICE);
    NewerAndroid.createQuietChannel(manager, CHANNEL, context.getString(R.string.channel));
  }

  /** Says what the board says; stays while training is on. */
  Notification ofBoard() {
    ProgressBoard board = ProgressBoard.shared();
    Intent stop = new Intent(context, TrainingService.class).setAction(TrainingService.STOP);
    PendingIntent stopping = PendingIntent.getService(context, 0, stop, PendingIntent.FLAG_IMMUTABLE);
    return builder(board.state(), board.figures())
        .setOngoing(true)
        .addAction(new Notification.Action.Builder(null, context.getString(R.string.stop), stopping).build())
        .build();
  }

  /** Show the board anew, unless that was done a moment ago: the system drops what comes faster. */
  synchronized void refresh() {
    long now = System.currentTimeMillis();
    if (Math.abs(now - shownAtMs) >= SHORTEST_INTERVAL_MS) {
      shownAtMs = now;
      manager.notify(TRAINING_ID, ofBoard());
    }
  }

  /** Say something that stays until it is looked at. */
  void say(String line) {
    manager.notify(WORD_ID, builder(line, "").setAutoCancel(true).build());
  }

  private Notification.Builder builder(String title, String text) {
    Intent open = new Intent(context, MainActivity.class);
    return NewerAndroid.notificationBuilder(context, CHANNEL)
        .setSmallIcon(R.drawable.layers)
        .setContentTitle(title)
        .setContentText(text)
        .setContentIntent(PendingIntent.getActivity(context, 0, open, PendingIntent.FLAG_IMMUTABLE));
  }
}
