// A wall clock that jumps: CLOCK_JUMPS="SECONDS:OFFSET,..." adds OFFSET seconds to what the clock
// says once SECONDS have gone by since this process first asked. Loaded by LD_PRELOAD.
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct timespec ask(clockid_t clock) {
  struct timespec now;
  syscall(SYS_clock_gettime, clock, &now);
  return now;
}

static long offset(void) {
  static double begun = 0;
  struct timespec now = ask(CLOCK_MONOTONIC);
  double seconds = now.tv_sec + now.tv_nsec * 1e-9;
  if (begun == 0) begun = seconds;
  long sum = 0;
  char *text = getenv("CLOCK_JUMPS");
  while (text && *text) {
    double when = strtod(text, &text);
    if (*text++ != ':') break;
    long jump = strtol(text, &text, 10);
    if (seconds - begun >= when) sum += jump;
    if (*text == ',') text++;
  }
  return sum;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  long result = syscall(SYS_clock_gettime, clock, now);
  if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += offset();
  return (int)result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  (void)zone;
  struct timespec real = ask(CLOCK_REALTIME);
  now->tv_sec = real.tv_sec + offset();
  now->tv_usec = real.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *where) {
  time_t now = ask(CLOCK_REALTIME).tv_sec + offset();
  if (where) *where = now;
  return now;
}
