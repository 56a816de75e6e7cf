// The pool: threads that are started when they are first needed, and then wait for calls.
//
// A call does not wait for threads that have not begun: what they would have done its own thread does.
// So a thread that the system does not run, since others use its core, holds up no more than the task
// that it has taken. A waiting thread looks for the next call of a pass for a moment, and then sleeps.
//
// PyTorch computes what lies between the calls with threads of OpenMP, which wait by spinning on the
// cores that the pool needs. GNU OpenMP lets them sleep sooner where it has more threads than there are
// cores. So it starts the threads of the pool, as a team that never ends, and counts them.
#include "pool.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif

#include "exports.h"

namespace {

// One call in progress, on the stack of its thread.
struct Job {
  Tasks tasks;
  TasksBody body;
  const void *context;
  long helpers;  // at most
  long inside;   // helpers that run it now
  bool waited_for;
  Job *next;

  bool takes_helpers() const {
    return inside < helpers && __atomic_load_n(&tasks.next, __ATOMIC_RELAXED) < tasks.count;
  }
};

const long SPIN_NANOSECONDS = 20000;  // longer than what lies between two calls of a pass

pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t posted = PTHREAD_COND_INITIALIZER, left = PTHREAD_COND_INITIALIZER;
Job *jobs;             // those that helpers may still join
long started, asleep;  // threads
unsigned long calls;   // so far: a waiting thread sees it change

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ __volatile__("yield");
#endif
}

// As `top -H` shows it.
void name_thread() {
#if defined(__linux__)
  prctl(PR_SET_NAME, "fewer");
#endif
}

long nanoseconds() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000000000L + now.tv_nsec;
}

// Whether it became true within a moment.
template <class Condition>
bool spin_until(const Condition &condition) {
  for (const long start = nanoseconds(); !condition();) {
    if (nanoseconds() - start > SPIN_NANOSECONDS) return false;
    for (int i = 0; i < 16; i++) pause_briefly();
  }
  return true;
}

// With the mutex held, as the two below.
Job *find_job() {
  for (Job *job = jobs; job; job = job->next)
    if (job->takes_helpers()) return job;
  return 0;
}

void remove(Job *job) {
  Job **place = &jobs;
  while (*place != job) place = &(*place)->next;
  *place = job->next;
}

void help(Job *job) {
  job->inside++;
  pthread_mutex_unlock(&mutex);
  job->body(job->context, job->tasks);
  pthread_mutex_lock(&mutex);
  const bool waited_for = job->waited_for;
  // the last access: its thread may return at once
  if (__atomic_sub_fetch(&job->inside, 1, __ATOMIC_RELEASE) == 0 && waited_for) pthread_cond_broadcast(&left);
}

void *run_helper(void *) {
  name_thread();
  pthread_mutex_lock(&mutex);
  for (;;) {
    if (Job *job = find_job()) {
      help(job);
      continue;
    }
    const unsigned long seen = calls;
    pthread_mutex_unlock(&mutex);
    const bool called = spin_until([&] { return __atomic_load_n(&calls, __ATOMIC_ACQUIRE) != seen; });
    pthread_mutex_lock(&mutex);
    if (called || calls != seen) continue;
    asleep++;
    pthread_cond_wait(&posted, &mutex);
    asleep--;
  }
  return 0;
}

typedef void (*ParallelRegion)(void (*body)(void *), void *data, unsigned threads, unsigned flags);
ParallelRegion openmp_region;  // GOMP_parallel of PyTorch's copy of GNU OpenMP, if it has one

void run_member(void *starter) {
  if (!pthread_equal(*(pthread_t *)starter, pthread_self())) run_helper(0);
  for (;;) pause();
}

// A thread that starts the others, as a team of OpenMP, and has nothing else to do.
void *run_starter(void *count) {
  name_thread();
  pthread_t self = pthread_self();
  openmp_region(run_member, &self, (unsigned)(size_t)count + 1, 0);
  return 0;
}

bool start_thread(void *(*run)(void *), size_t argument) {
  pthread_t thread;
  if (pthread_create(&thread, 0, run, (void *)argument)) return false;
  pthread_detach(thread);
  return true;
}

// Signals are for threads of the program. Where a thread cannot be started, or OpenMP may have no more,
// fewer do the work.
void start_helpers(long count) {
  if (started >= count) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (openmp_region && start_thread(run_starter, count - started)) started = count;
  while (started < count && start_thread(run_helper, 0)) started++;
  pthread_sigmask(SIG_SETMASK, &before, 0);
}

// The child of a fork has one thread.
void lock_before_fork() { pthread_mutex_lock(&mutex); }
void unlock_after_fork() { pthread_mutex_unlock(&mutex); }
void begin_in_child() {
  pthread_mutex_init(&mutex, 0);
  pthread_cond_init(&posted, 0);
  pthread_cond_init(&left, 0);
  jobs = 0, started = asleep = 0;
}
__attribute__((constructor)) void handle_forks() {
  pthread_atfork(lock_before_fork, unlock_after_fork, begin_in_child);
}

void post(Job *job) {
  pthread_mutex_lock(&mutex);
  start_helpers(job->helpers);
  job->next = jobs, jobs = job;
  __atomic_store_n(&calls, calls + 1, __ATOMIC_RELEASE);
  for (long i = 0; i < job->helpers && i < asleep; i++) pthread_cond_signal(&posted);
  pthread_mutex_unlock(&mutex);
}

void wait_for_helpers(Job *job) {
  pthread_mutex_lock(&mutex);
  remove(job);
  const bool idle = job->inside == 0;
  pthread_mutex_unlock(&mutex);
  if (idle || spin_until([&] { return __atomic_load_n(&job->inside, __ATOMIC_ACQUIRE) == 0; })) return;
  pthread_mutex_lock(&mutex);
  job->waited_for = true;
  while (job->inside) pthread_cond_wait(&left, &mutex);
  pthread_mutex_unlock(&mutex);
}

}  // namespace

extern "C" void fewer_start_by_openmp(void *region) {
  pthread_mutex_lock(&mutex);
  openmp_region = (ParallelRegion)region;
  pthread_mutex_unlock(&mutex);
}

extern "C" void fewer_share_tasks(long count, long threads, TasksBody body, const void *context) {
  const long helpers = (threads < count ? threads : count) - 1;
  Job job = {{0, count}, body, context, helpers, 0, false, 0};
  if (helpers <= 0) return body(context, job.tasks);
  post(&job);
  body(context, job.tasks);
  wait_for_helpers(&job);
}
