package org.quadloom.app;

import android.app.Service;
import android.content.BroadcastReceiver;
import android.content.Context;
import android.content.Intent;
import android.os.IBinder;

/**
 * Holds the training thread in the foreground for as long as training is wanted.
 *
 * <p>All progress lies on disk. A killed process is started anew by the system ({@code START_STICKY}) or by {@link
 * ResumeJob}, and the device loop goes on where it was.
 */
public final class TrainingService extends Service {
  /** Action of an intent that ends training; one without an action begins it. */
  static final String STOP = "org.quadloom.app.STOP";

  private static volatile boolean running;

  private final BroadcastReceiver changes =
      new BroadcastReceiver() {
        @Override
        public void onReceive(Context context, Intent intent) {
          if (training != null) {
            training.conditionsChanged();
          }
        }
      };
  private TrainingThread training;
  private Notifications notifications;

  /** Begin training, or go on; from Android 12 on only with the app on the screen, else an IllegalStateException. */
  static void start(Context context) {
    NewerAndroid.startForegroundService(context, new Intent(context, TrainingService.class));
  }

  /** Whether the service is there, in this process. */
  static boolean isRunning() {
    return running;
  }

  @Override
  public void onCreate() {
    running = true;
    notifications = new Notifications(this);
    registerReceiver(changes, Conditions.changes());
    ProgressBoard.shared()
        .setNotification(
            new ProgressBoard.Reader() {
              @Override
              public void boardChanged() {
                notifications.refresh();
              }
            });
  }

  @Override
  public int onStartCommand(Intent intent, int flags, int startId) {
    SavedSettings settings = new SavedSettings(this);
    if (intent != null && STOP.equals(intent.getAction())) {
      settings.setTrainingWanted(false);
      ResumeJob.cancel(this);
    }
    try {
      // Within seconds of its start a foreground service must show itself, also if it is to end.
      startForeground(Notifications.TRAINING_ID, notifications.ofBoard());
    } catch (IllegalStateException notAllowed) {
      notifications.say("Android lets no app train longer today, or not from the background: tap to go on");
      stopSelf();
      return START_NOT_STICKY;
    }
    if (!settings.trainingWanted()) {
      stopSelf();
      return START_NOT_STICKY;
    }
    ResumeJob.schedule(this);
    if (training == null) {
      training = new TrainingThread(getApplicationContext(), new TaskFinished());
      training.start();
    }
    return START_STICKY;
  }

  /** Android 15 gives such a service six hours a day, then this call and a few seconds. */
  public void onTimeout(int startId, int foregroundServiceType) {
    stopSelf();
  }

  @Override
  public void onDestroy() {
    running = false;
    ProgressBoard.shared().setNotification(null);
    unregisterReceiver(changes);
    if (training != null) {
      training.end();
    }
  }

  @Override
  public IBinder onBind(Intent intent) {
    return null;
  }

  private final class TaskFinished implements Runnable {
    @Override
    public void run() {
      new SavedSettings(TrainingService.this).setTrainingWanted(false);
      ResumeJob.cancel(TrainingService.this);
      notifications.say(getString(R.string.task_finished));
      stopSelf();
    }
  }
}
