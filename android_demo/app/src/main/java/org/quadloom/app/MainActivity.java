package org.quadloom.app;

import android.app.Activity;
import android.content.Intent;
import android.content.pm.PackageManager;
import android.os.Build;
import android.os.Bundle;
import android.view.View;
import android.widget.CheckBox;
import android.widget.EditText;
import android.widget.TextView;
import java.io.IOException;
import java.io.InputStream;
import org.quadloom.core.QuadloomException;

/** The one screen: settings, start and stop, and what the training does. */
public final class MainActivity extends Activity {
  private static final int CHOOSE_DATA = 1;
  private static final int ASK_FOR_NOTIFICATIONS = 2;
  private static final int ANDROID_13 = 33;
  private static final String POST_NOTIFICATIONS = "android.permission.POST_NOTIFICATIONS";

  private SavedSettings settings;

  @Override
  protected void onCreate(Bundle state) {
    super.onCreate(state);
    setContentView(R.layout.main);
    settings = new SavedSettings(this);
    showSettings();
    onClick(
        R.id.choose_data,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            chooseData();
          }
        });
    onClick(
        R.id.start,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            start();
          }
        });
    onClick(
        R.id.stop,
        new View.OnClickListener() {
          @Override
          public void onClick(View view) {
            stop();
          }
        });
    if (Build.VERSION.SDK_INT >= ANDROID_13
        && checkSelfPermission(POST_NOTIFICATIONS) != PackageManager.PERMISSION_GRANTED) {
      requestPermissions(new String[] {POST_NOTIFICATIONS}, ASK_FOR_NOTIFICATIONS);
    }
  }

  @Override
  protected void onStart() {
    super.onStart();
    ProgressBoard.shared()
        .setScreen(
            new ProgressBoard.Reader() {
              @Override
              public void boardChanged() {
                showBoardSoon();
              }
            });
    if (settings.trainingWanted()) {
      TrainingService.start(this); // the process may have been killed meanwhile
    }
    showBoard();
  }

  @Override
  protected void onStop() {
    super.onStop();
    ProgressBoard.shared().setScreen(null);
  }

  @Override
  protected void onPause() {
    super.onPause();
    saveSettings();
  }

  @Override
  protected void onActivityResult(int request, int result, Intent answer) {
    if (request == CHOOSE_DATA && result == RESULT_OK) {
      keepData(answer);
    }
  }

  private void start() {
    saveSettings();
    if (settings.server().isEmpty() || !settings.dataFile().exists()) {
      ProgressBoard.shared().write("give the server's address and choose data first");
      return;
    }
    settings.setTrainingWanted(true);
    TrainingService.start(this);
  }

  private void stop() {
    settings.setTrainingWanted(false);
    ResumeJob.cancel(this);
    stopService(new Intent(this, TrainingService.class));
  }

  private void chooseData() {
    Intent choose = new Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*");
    startActivityForResult(choose, CHOOSE_DATA);
  }

  /** Copies and checks the data on a thread of its own: it may be large, or come from a slow place. */
  private void keepData(final Intent answer) {
    Thread keeping =
        new Thread("keep data") {
          @Override
          public void run() {
            try (InputStream chosen = getContentResolver().openInputStream(answer.getData())) {
              int examples = ExampleFile.keep(chosen, settings.dataFile());
              ProgressBoard.shared().write(examples + " examples are ready");
            } catch (IOException | QuadloomException | RuntimeException error) {
              // A RuntimeException is the other app's, from which the data comes.
              ProgressBoard.shared().write("the data cannot be taken: " + error.getMessage());
            }
          }
        };
    keeping.start();
  }

  private void showSettings() {
    text(R.id.server).setText(settings.server());
    text(R.id.device_name).setText(settings.deviceName());
    text(R.id.enrolment_token).setText(settings.enrolmentToken());
    text(R.id.family_key).setText(settings.familyKey());
    text(R.id.threads).setText(String.valueOf(settings.threads()));
    text(R.id.memory_mb).setText(String.valueOf(settings.memoryMb()));
    onlyWhenIdle().setChecked(settings.onlyWhenIdle());
  }

  private void saveSettings() {
    settings.save(
        typed(R.id.server),
        typed(R.id.device_name),
        typed(R.id.enrolment_token),
        typed(R.id.family_key),
        number(R.id.threads, settings.threads()),
        number(R.id.memory_mb, settings.memoryMb()),
        onlyWhenIdle().isChecked());
  }

  private void showBoardSoon() {
    runOnUiThread(
        new Runnable() {
          @Override
          public void run() {
            showBoard();
          }
        });
  }

  private void showBoard() {
    text(R.id.state).setText(ProgressBoard.shared().state());
    text(R.id.figures).setText(ProgressBoard.shared().figures());
    boolean hasData = settings.dataFile().exists();
    text(R.id.data_file).setText(hasData ? settings.dataFile().length() + " bytes" : getString(R.string.no_data));
  }

  private void onClick(int id, View.OnClickListener listener) {
    findViewById(id).setOnClickListener(listener);
  }

  private TextView text(int id) {
    return (TextView) findViewById(id);
  }

  private CheckBox onlyWhenIdle() {
    return (CheckBox) findViewById(R.id.only_when_idle);
  }

  private String typed(int id) {
    return ((EditText) findViewById(id)).getText().toString().trim();
  }

  /** What was typed, or {@code otherwise} if that is no positive number. */
  private int number(int id, int otherwise) {
    try {
      return Math.max(1, Integer.parseInt(typed(id)));
    } catch (NumberFormatException error) {
      return otherwise;
    }
  }
}
