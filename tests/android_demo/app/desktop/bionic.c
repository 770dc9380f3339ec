/* What Android's C library has and glibc lacks or does otherwise, for the libraries of the APK on a desktop's JVM.
   Everything else that they import has the same name, types and meaning in both. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int *__errno(void) { return __errno_location(); }

char *__gnu_strerror_r(int error, char *buffer, size_t size) { return strerror_r(error, buffer, size); }

char *__strchr_chk(const char *text, int letter, size_t size) {
  (void)size;
  return strchr(text, letter);
}

char *__strrchr_chk(const char *text, int letter, size_t size) {
  (void)size;
  return strrchr(text, letter);
}

size_t __strlen_chk(const char *text, size_t size) {
  (void)size;
  return strlen(text);
}

ssize_t __write_chk(int file, const void *bytes, size_t count, size_t size) {
  (void)size;
  return write(file, bytes, count);
}

int __system_property_get(const char *name, char *value) {
  (void)name;
  value[0] = 0;
  return 0;
}

void __gcov_dump(void) {}
void __gcov_flush(void) {}

/* The standard streams, by address. Nothing writes to them, but C++ flushes them when the process ends. */
char __sF[3 * 1024];

/* Two functions that glibc has, too, and would be asked first: the libraries are made to ask for these names instead. */
int fflusB(FILE *stream) {
  char *place = (char *)stream;
  return place >= __sF && place < __sF + sizeof __sF ? 0 : fflush(stream);
}

/* The numbers of the questions differ. */
long sysconB(int question) {
  switch (question) {
    case 0x27:
    case 0x28:
      return sysconf(_SC_PAGESIZE);
    case 0x60:
      return sysconf(_SC_NPROCESSORS_CONF);
    case 0x61:
      return sysconf(_SC_NPROCESSORS_ONLN);
    default:
      errno = EINVAL;
      return -1;
  }
}

void android_set_abort_message(const char *message) { fprintf(stderr, "%s\n", message); }

int __android_log_write(int priority, const char *tag, const char *text) {
  (void)priority;
  return fprintf(stderr, "%s: %s\n", tag, text);
}

int __android_log_vprint(int priority, const char *tag, const char *format, va_list arguments) {
  (void)priority;
  fprintf(stderr, "%s: ", tag);
  int written = vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  return written;
}

int __android_log_print(int priority, const char *tag, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int written = __android_log_vprint(priority, tag, format, arguments);
  va_end(arguments);
  return written;
}

void __android_log_assert(const char *condition, const char *tag, const char *format, ...) {
  (void)format;
  fprintf(stderr, "%s: %s\n", tag, condition ? condition : "failed");
  abort();
}
