package org.quadloom.app;

import android.content.Context;
import java.util.Collections;
import java.util.List;

/** Nothing is missing. */
final class Conditions {
  Conditions(Context context) {}

  List<String> missing() {
    return Collections.emptyList();
  }
}
