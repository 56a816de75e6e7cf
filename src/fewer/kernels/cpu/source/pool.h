// Threads that share the tasks of a call. The tasks must not depend on who runs them, or in which order.
#pragma once

// Tasks 0 .. count - 1, each taken once.
struct Tasks {
  long next, count;
  // A task that nobody has taken, or -1.
  long take() {
    const long task = __atomic_fetch_add(&next, 1, __ATOMIC_RELAXED);
    return task < count ? task : -1;
  }
};

typedef void (*TasksBody)(const void *context, Tasks &tasks);

// Runs `body` on the calling thread and on up to threads - 1 others; returns when all tasks are done.
extern "C" void fewer_share_tasks(long count, long threads, TasksBody body, const void *context);

// body(tasks) takes tasks until there are none.
template <class Body>
static void share_tasks(long count, long threads, const Body &body) {
  const TasksBody call = [](const void *context, Tasks &tasks) { (*(const Body *)context)(tasks); };
  fewer_share_tasks(count, threads, call, &body);
}

// body(first, end) for pieces of 0 .. count - 1, as large as one for each thread.
template <class Body>
static void share_range(long count, long threads, const Body &body) {
  if (count <= 0) return;
  const long each = (count + threads - 1) / threads;
  share_tasks((count + each - 1) / each, threads, [&](Tasks &tasks) {
    for (long i; (i = tasks.take()) >= 0;) body(i * each, (i + 1) * each < count ? (i + 1) * each : count);
  });
}
