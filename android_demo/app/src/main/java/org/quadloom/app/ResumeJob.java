package org.quadloom.app;

import android.app.job.JobInfo;
import android.app.job.JobParameters;
import android.app.job.JobScheduler;
import android.app.job.JobService;
import android.content.ComponentName;
import android.content.Context;

/**
 * Takes up training that is wanted and does not run: after the phone was restarted, the process was killed, or the
 * service's hours of a day were used up.
 *
 * <p>The system runs it now and then while the phone charges on a network without a meter. Where it may not start the
 * service from here (from Android 12 on), it asks the person to.
 */
public final class ResumeJob extends JobService {
  private static final int ID = 1;
  private static final long EVERY_MS = 60 * 60_000;

  /** Have it run every hour in which the conditions hold, also after a restart of the phone. */
  static void schedule(Context context) {
    JobScheduler scheduler = scheduler(context);
    for (JobInfo pending : scheduler.getAllPendingJobs()) {
      if (pending.getId() == ID) {
        return;
      }
    }
    scheduler.schedule(
        new JobInfo.Builder(ID, new ComponentName(context, ResumeJob.class))
            .setRequiresCharging(true)
            .setRequiredNetworkType(JobInfo.NETWORK_TYPE_UNMETERED)
            .setPeriodic(EVERY_MS)
            .setPersisted(true)
            .build());
  }

  /** Training is not wanted any more. */
  static void cancel(Context context) {
    scheduler(context).cancel(ID);
  }

  @Override
  public boolean onStartJob(JobParameters parameters) {
    if (new SavedSettings(this).trainingWanted() && !TrainingService.isRunning()) {
      try {
        TrainingService.start(this);
      } catch (IllegalStateException notAllowed) {
        new Notifications(this).say("Tap to go on training");
      }
    }
    return false;
  }

  @Override
  public boolean onStopJob(JobParameters parameters) {
    return false;
  }

  private static JobScheduler scheduler(Context context) {
    return (JobScheduler) context.getSystemService(Context.JOB_SCHEDULER_SERVICE);
  }
}
