// MPI for Node.js: one thread that makes every call of MPI, and a queue of jobs that JavaScript
// gives it. `lora-native build --mpi` compiles this file with the mpicc of the system, because the
// binary interfaces of Open MPI and MPICH differ. Nothing blocks inside MPI: calls are non-blocking
// and tested in a loop that yields, so that a flag of JavaScript ends a wait for a peer that is
// gone.
#include <errno.h>
#include <mpi.h>
#include <node_api.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kBeatTag = 1, kFirstTag = 2, kTags = 16000, kMessage = 512 };
// The last beat of a rank: nothing follows it.
enum { kFarewell = -1 };
// Of what JavaScript calls: a shim of another version is refused.
enum { kForm = 2 };

typedef enum { kStart, kExchange, kSum, kDigest, kFinish } Kind;

typedef struct Job {
  Kind kind;
  const uint8_t* in;
  uint8_t* out;
  size_t bytes;  // of `in`
  uint64_t digest;
  bool half;  // sums: sent in bf16
  napi_ref in_ref, out_ref;
  napi_deferred deferred;
  char error[kMessage];
  struct Job* next;
} Job;

// A rank that hangs may have sent what it has, and not take what it is sent.
enum { kToReceive = 1, kToSend = 2 };

typedef struct {
  atomic_int waiting;         // kToReceive, kToSend: what the operation lacks
  _Atomic double beat;        // when the last one came
  _Atomic double progressed;  // when its count of progress last changed
  _Atomic double arrived;     // after the beginning of the last exchange, in seconds
  int progress;
  bool left;
} Peer;

static struct {
  atomic_bool taken;
  pthread_t thread;
  bool running;
  pthread_mutex_t mutex;
  pthread_cond_t wake;
  Job* first;
  Job* last;
  atomic_bool ending;    // the environment ends: no more calls
  atomic_bool given_up;  // a peer is gone: what runs fails
  atomic_int progress;   // of this rank
  napi_threadsafe_function done;
  // Of the thread.
  MPI_Comm comm;
  int rank, size, local_rank, local_size;
  char host[MPI_MAX_PROCESSOR_NAME];
  Peer* peers;
  MPI_Request* requests;  // 2 for each rank: receives, then sends
  int* indices;
  MPI_Request* beats;
  int beat_value;
  double beat_at;
  bool quiet;  // it has said farewell
  int sequence;
} g = {.mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static double Now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static bool Failed(int code, const char* call, char* error) {
  if (code == MPI_SUCCESS) return false;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  snprintf(error, kMessage, "%s: %.400s", call, text);
  return true;
}

static bool SendBeats(char* error) {
  for (int r = 0; r < g.size; r++) {
    if (r == g.rank) continue;
    if (Failed(MPI_Isend(&g.beat_value, 1, MPI_INT, r, kBeatTag, g.comm, &g.beats[r]), "MPI_Isend",
               error))
      return false;
  }
  return true;
}

// Takes the beats of peers, and sends those of this rank once a second.
static bool Tend(char* error) {
  if (g.comm == MPI_COMM_NULL || g.size == 1) return true;
  for (;;) {
    int found = 0;
    MPI_Status status;
    if (Failed(MPI_Iprobe(MPI_ANY_SOURCE, kBeatTag, g.comm, &found, &status), "MPI_Iprobe", error))
      return false;
    if (!found) break;
    int value = 0;
    const int from = status.MPI_SOURCE;
    if (Failed(MPI_Recv(&value, 1, MPI_INT, from, kBeatTag, g.comm, MPI_STATUS_IGNORE), "MPI_Recv",
               error))
      return false;
    Peer* peer = &g.peers[from];
    const double now = Now();
    atomic_store(&peer->beat, now);
    if (value == kFarewell) peer->left = true;
    if (value != peer->progress) atomic_store(&peer->progressed, now);
    peer->progress = value;
  }
  if (g.quiet || Now() - g.beat_at < 1) return true;
  int sent = 0;
  if (Failed(MPI_Testall(g.size, g.beats, &sent, MPI_STATUSES_IGNORE), "MPI_Testall", error))
    return false;
  if (!sent) return true;  // a peer does not take them
  g.beat_at = Now();
  g.beat_value = atomic_load(&g.progress);
  return SendBeats(error);
}

static void Rest(long* turns) {
  if (++*turns < 200) {
    sched_yield();
    return;
  }
  const struct timespec pause = {.tv_nsec = *turns < 2000 ? 50000 : 500000};
  nanosleep(&pause, NULL);
}

// Waits until all of g.requests are done. The first `size` of them are receives.
static bool WaitAll(double began, char* error) {
  long turns = 0;
  for (;;) {
    int done = 0;
    if (Failed(MPI_Testsome(2 * g.size, g.requests, &done, g.indices, MPI_STATUSES_IGNORE),
               "MPI_Testsome", error))
      return false;
    if (done == MPI_UNDEFINED) return true;
    for (int i = 0; i < done; i++) {
      const bool received = g.indices[i] < g.size;
      Peer* peer = &g.peers[g.indices[i] % g.size];
      atomic_fetch_and(&peer->waiting, received ? ~kToReceive : ~kToSend);
      if (received) atomic_store(&peer->arrived, Now() - began);
    }
    if (done > 0) continue;
    if (atomic_load(&g.given_up) || atomic_load(&g.ending)) {
      snprintf(error, kMessage, "given up");
      return false;
    }
    if (!Tend(error)) return false;
    Rest(&turns);
  }
}

static bool Receive(void* to, int count, MPI_Datatype type, int from, int tag, char* error) {
  if (Failed(MPI_Irecv(to, count, type, from, tag, g.comm, &g.requests[from]), "MPI_Irecv", error))
    return false;
  atomic_fetch_or(&g.peers[from].waiting, kToReceive);
  return true;
}

static bool Send(const void* from, int count, MPI_Datatype type, int to, int tag, char* error) {
  if (Failed(MPI_Isend(from, count, type, to, tag, g.comm, &g.requests[g.size + to]), "MPI_Isend",
             error))
    return false;
  atomic_fetch_or(&g.peers[to].waiting, kToSend);
  return true;
}

static int NextTag(void) {
  g.sequence = (g.sequence + 1) % kTags;
  return kFirstTag + g.sequence;
}

// Every rank's bytes, in the order of ranks.
static bool Exchange(Job* job) {
  const double began = Now();
  const int tag = NextTag();
  const int count = (int)job->bytes;
  memcpy(job->out + job->bytes * (size_t)g.rank, job->in, job->bytes);
  atomic_store(&g.peers[g.rank].arrived, 0);
  for (int r = 0; r < g.size; r++)
    if (r != g.rank &&
        !Receive(job->out + job->bytes * (size_t)r, count, MPI_BYTE, r, tag, job->error))
      return false;
  for (int r = 0; r < g.size; r++)
    if (r != g.rank && !Send(job->in, count, MPI_BYTE, r, tag, job->error)) return false;
  return WaitAll(began, job->error);
}

static size_t Part(size_t n, int r) { return n * (size_t)r / (size_t)g.size; }

// The nearest value of bf16, ties to even.
static uint16_t Rounded(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 64);  // NaN stays one
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float Widened(uint16_t value) {
  const uint32_t bits = (uint32_t)value << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}

static void AddTo(double* sums, const void* values, bool half, size_t begin, size_t count) {
  const float* wide = (const float*)values + begin;
  const uint16_t* narrow = (const uint16_t*)values + begin;
  if (half)
    for (size_t i = 0; i < count; i++) sums[i] += Widened(narrow[i]);
  else
    for (size_t i = 0; i < count; i++) sums[i] += wide[i];
}

// Rank r sums part r of all ranks, in their order and in double precision, and gives it to all. A
// rank sends and receives 2·(size − 1)/size of the values, the least that is possible. With `half`
// they are sent in bf16: every rank rounds what it gives, and the owner of a part its sums, so that
// all ranks have the same bits.
static bool Sum(Job* job) {
  const size_t n = job->bytes / sizeof(float);
  float* values = (float*)job->out;
  const size_t own = Part(n, g.rank);
  const size_t length = Part(n, g.rank + 1) - own;
  const size_t width = job->half ? sizeof(uint16_t) : sizeof(float);
  const MPI_Datatype type = job->half ? MPI_UINT16_T : MPI_FLOAT;
  uint8_t* parts = malloc(width * length * (size_t)g.size + 1);
  uint16_t* rounded = job->half ? malloc(width * n + 1) : NULL;
  if (!parts || (job->half && !rounded)) {
    free(parts);
    free(rounded);
    snprintf(job->error, kMessage, "no memory for %zu values", length * (size_t)g.size);
    return false;
  }
  if (job->half)
    for (size_t i = 0; i < n; i++) rounded[i] = Rounded(values[i]);
  uint8_t* wire = job->half ? (uint8_t*)rounded : (uint8_t*)values;
  bool works = true;
  int tag = NextTag();
  for (int r = 0; r < g.size && works; r++)
    if (r != g.rank)
      works = Receive(parts + width * length * (size_t)r, (int)length, type, r, tag, job->error);
  for (int r = 0; r < g.size && works; r++)
    if (r != g.rank)
      works = Send(wire + width * Part(n, r), (int)(Part(n, r + 1) - Part(n, r)), type, r, tag,
                   job->error);
  works = works && WaitAll(Now(), job->error);
  // Where it failed, MPI may still use the memory: the process ends soon.
  if (!works) return false;
  memcpy(parts + width * length * (size_t)g.rank, wire + width * own, width * length);
  enum { kBlock = 512 };
  double sums[kBlock];
  for (size_t begin = 0; begin < length; begin += kBlock) {
    const size_t count = length - begin < kBlock ? length - begin : kBlock;
    for (size_t i = 0; i < count; i++) sums[i] = -0.0;  // adds nothing, not even a sign
    for (int r = 0; r < g.size; r++)
      AddTo(sums, parts + width * length * (size_t)r, job->half, begin, count);
    for (size_t i = 0; i < count; i++) values[own + begin + i] = (float)sums[i];
    if (job->half)
      for (size_t i = own + begin; i < own + begin + count; i++) rounded[i] = Rounded(values[i]);
  }
  free(parts);
  tag = NextTag();
  for (int r = 0; r < g.size && works; r++)
    if (r != g.rank)
      works = Receive(wire + width * Part(n, r), (int)(Part(n, r + 1) - Part(n, r)), type, r, tag,
                      job->error);
  for (int r = 0; r < g.size && works; r++)
    if (r != g.rank) works = Send(wire + width * own, (int)length, type, r, tag, job->error);
  works = works && WaitAll(Now(), job->error);
  if (!works) return false;
  if (job->half)
    for (size_t i = 0; i < n; i++) values[i] = Widened(rounded[i]);
  free(rounded);
  return true;
}

// Four chains, so that multiplications overlap. It tells copies apart and withstands no attacks.
static uint64_t Digest(const uint8_t* bytes, size_t count, uint64_t seed) {
  const uint64_t prime = 0x9e3779b97f4a7c15u;
  uint64_t h[4] = {seed ^ count, seed + 1, seed + 2, seed + 3};
  size_t i = 0;
  for (; i + 32 <= count; i += 32)
    for (int k = 0; k < 4; k++) {
      uint64_t word;
      memcpy(&word, bytes + i + 8 * k, 8);
      h[k] = (h[k] ^ word) * prime;
      h[k] ^= h[k] >> 29;
    }
  for (; i < count; i++) {
    h[0] = (h[0] ^ bytes[i]) * prime;
    h[0] ^= h[0] >> 29;
  }
  for (int k = 1; k < 4; k++) {
    h[0] = (h[0] ^ h[k]) * prime;
    h[0] ^= h[0] >> 32;
  }
  return h[0];
}

static bool Start(Job* job) {
  int provided = 0;
  int length = 0;
  if (Failed(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread",
             job->error) ||
      Failed(MPI_Comm_dup(MPI_COMM_WORLD, &g.comm), "MPI_Comm_dup", job->error))
    return false;
  // Also of communicators that are not used here: the loss of a peer is raised on one of them.
  MPI_Comm_set_errhandler(g.comm, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN);
  MPI_Comm_rank(g.comm, &g.rank);
  MPI_Comm_size(g.comm, &g.size);
  MPI_Comm local;
  if (Failed(MPI_Comm_split_type(g.comm, MPI_COMM_TYPE_SHARED, g.rank, MPI_INFO_NULL, &local),
             "MPI_Comm_split_type", job->error))
    return false;
  MPI_Comm_rank(local, &g.local_rank);
  MPI_Comm_size(local, &g.local_size);
  MPI_Comm_free(&local);
  MPI_Get_processor_name(g.host, &length);
  const size_t size = (size_t)g.size;
  g.peers = calloc(size, sizeof *g.peers);
  g.requests = malloc(2 * size * sizeof *g.requests);
  g.indices = malloc(2 * size * sizeof *g.indices);
  g.beats = malloc(size * sizeof *g.beats);
  if (!g.peers || !g.requests || !g.indices || !g.beats) {
    snprintf(job->error, kMessage, "no memory for %zu ranks", size);
    return false;
  }
  for (size_t r = 0; r < size; r++) {
    atomic_store(&g.peers[r].beat, Now());
    atomic_store(&g.peers[r].progressed, Now());
    g.requests[r] = g.requests[size + r] = g.beats[r] = MPI_REQUEST_NULL;
  }
  return true;
}

// All ranks end: the farewell follows every beat, so nothing is on its way afterwards.
static bool Finish(Job* job) {
  long turns = 0;
  int sent = 0;
  if (g.size > 1) {
    while (!sent) {
      if (Failed(MPI_Testall(g.size, g.beats, &sent, MPI_STATUSES_IGNORE), "MPI_Testall",
                 job->error))
        return false;
      if (atomic_load(&g.given_up) || !Tend(job->error)) return false;
      if (!sent) Rest(&turns);
      if (sent && !g.quiet) {
        g.quiet = true;
        g.beat_value = kFarewell;
        if (!SendBeats(job->error)) return false;
        sent = 0;
      }
    }
    for (int r = 0; r < g.size; r++)
      while (r != g.rank && !g.peers[r].left) {
        if (atomic_load(&g.given_up) || !Tend(job->error)) return false;
        Rest(&turns);
      }
  }
  MPI_Comm_free(&g.comm);
  return !Failed(MPI_Finalize(), "MPI_Finalize", job->error);
}

static void Run(Job* job) {
  bool works = true;
  if (job->kind == kDigest) {
    job->digest = Digest(job->in, job->bytes, job->digest);
  } else {
    works = job->kind == kStart      ? Start(job)
            : job->kind == kExchange ? Exchange(job)
            : job->kind == kSum      ? Sum(job)
                                     : Finish(job);
  }
  if (!works && job->error[0] == '\0') snprintf(job->error, kMessage, "given up");
}

static void* Main(void* unused) {
  (void)unused;
  g.comm = MPI_COMM_NULL;
  bool finished = false;
  while (!finished) {
    pthread_mutex_lock(&g.mutex);
    if (!g.first && !atomic_load(&g.ending)) {
      struct timespec until;
      clock_gettime(CLOCK_REALTIME, &until);
      until.tv_nsec += 20000000;
      if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
      }
      pthread_cond_timedwait(&g.wake, &g.mutex, &until);
    }
    Job* job = g.first;
    if (job) g.first = job->next;
    if (!g.first) g.last = NULL;
    pthread_mutex_unlock(&g.mutex);
    if (atomic_load(&g.ending)) break;
    if (job) {
      Run(job);
      finished = job->kind == kFinish;
      if (napi_call_threadsafe_function(g.done, job, napi_tsfn_nonblocking) != napi_ok) break;
    } else if (!atomic_load(&g.given_up)) {
      char error[kMessage];
      if (!Tend(error)) atomic_store(&g.given_up, true);
    }
  }
  return NULL;
}

// ---- JavaScript's side.

static napi_value Number(napi_env env, double value) {
  napi_value result = NULL;
  napi_create_double(env, value, &result);
  return result;
}

static napi_value Text(napi_env env, const char* text) {
  napi_value result = NULL;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &result);
  return result;
}

static napi_value Started(napi_env env) {
  napi_value result = NULL;
  napi_create_object(env, &result);
  napi_set_named_property(env, result, "rank", Number(env, g.rank));
  napi_set_named_property(env, result, "size", Number(env, g.size));
  napi_set_named_property(env, result, "localRank", Number(env, g.local_rank));
  napi_set_named_property(env, result, "localSize", Number(env, g.local_size));
  napi_set_named_property(env, result, "host", Text(env, g.host));
  return result;
}

static void Done(napi_env env, napi_value unused_function, void* unused, void* data) {
  (void)unused_function;
  (void)unused;
  Job* job = data;
  if (env) {
    napi_value value = NULL;
    if (job->in_ref) napi_delete_reference(env, job->in_ref);
    if (job->out_ref) napi_delete_reference(env, job->out_ref);
    if (job->error[0] != '\0') {
      napi_value error = NULL;
      napi_create_error(env, NULL, Text(env, job->error), &error);
      napi_reject_deferred(env, job->deferred, error);
    } else {
      napi_get_undefined(env, &value);
      if (job->kind == kStart) value = Started(env);
      if (job->kind == kDigest) napi_create_bigint_uint64(env, job->digest, &value);
      napi_resolve_deferred(env, job->deferred, value);
    }
    napi_unref_threadsafe_function(env, g.done);
  }
  free(job);
}

static napi_value Refuse(napi_env env, const char* message) {
  napi_throw_error(env, NULL, message);
  return NULL;
}

static napi_value Enqueue(napi_env env, Job* job) {
  napi_value promise = NULL;
  if (napi_create_promise(env, &job->deferred, &promise) != napi_ok) {
    free(job);
    return NULL;
  }
  napi_ref_threadsafe_function(env, g.done);
  pthread_mutex_lock(&g.mutex);
  if (g.last)
    g.last->next = job;
  else
    g.first = job;
  g.last = job;
  pthread_cond_signal(&g.wake);
  pthread_mutex_unlock(&g.mutex);
  return promise;
}

static void Cleanup(void* unused) {
  (void)unused;
  if (!g.running) return;
  atomic_store(&g.ending, true);
  pthread_mutex_lock(&g.mutex);
  pthread_cond_signal(&g.wake);
  pthread_mutex_unlock(&g.mutex);
  // MPI_Init may wait for peers, and nothing of the thread's needs to be done: it is not joined.
  const struct timespec pause = {.tv_nsec = 5000000};
  nanosleep(&pause, NULL);
}

static napi_value StartMpi(napi_env env, napi_callback_info info) {
  (void)info;
  bool free_ = false;
  if (!atomic_compare_exchange_strong(&g.taken, &free_, true))
    return Refuse(env, "MPI was started before: it belongs to one thread of a process, once");
  napi_value name = Text(env, "lora_mpi");
  if (napi_create_threadsafe_function(env, NULL, NULL, name, 0, 1, NULL, NULL, NULL, Done,
                                      &g.done) != napi_ok)
    return Refuse(env, "cannot make a thread-safe function");
  napi_unref_threadsafe_function(env, g.done);
  napi_add_env_cleanup_hook(env, Cleanup, NULL);
  Job* job = calloc(1, sizeof *job);
  if (!job) return Refuse(env, "out of memory");
  job->kind = kStart;
  if (pthread_create(&g.thread, NULL, Main, NULL) != 0) {
    free(job);
    return Refuse(env, "cannot start a thread");
  }
  pthread_detach(g.thread);
  g.running = true;
  return Enqueue(env, job);
}

// Bytes of a typed array, which stays where it is while it is referenced.
static bool Bytes(napi_env env, napi_value value, uint8_t** data, size_t* bytes) {
  napi_typedarray_type type;
  size_t length = 0;
  void* at = NULL;
  if (napi_get_typedarray_info(env, value, &type, &length, &at, NULL, NULL) != napi_ok)
    return false;
  const size_t width = type == napi_uint8_array ? 1 : type == napi_float32_array ? 4 : 0;
  *data = at;
  *bytes = length * width;
  return width > 0;
}

static Job* NewJob(napi_env env, napi_callback_info info, Kind kind, size_t given) {
  napi_value args[2];
  size_t count = 2;
  if (!g.running || napi_get_cb_info(env, info, &count, args, NULL, NULL) != napi_ok ||
      count < given)
    return NULL;
  Job* job = calloc(1, sizeof *job);
  if (!job) return NULL;
  job->kind = kind;
  uint8_t* data = NULL;
  size_t bytes = 0;
  if (given > 0 && Bytes(env, args[0], &data, &bytes)) {
    job->in = job->out = data;
    job->bytes = bytes;
    napi_create_reference(env, args[0], 1, &job->in_ref);
  } else if (given > 0) {
    free(job);
    return NULL;
  }
  if (given == 2 && kind == kExchange) {
    if (!Bytes(env, args[1], &job->out, &bytes) || bytes != job->bytes * (size_t)g.size ||
        job->bytes > INT32_MAX) {
      napi_delete_reference(env, job->in_ref);
      free(job);
      return NULL;
    }
    napi_create_reference(env, args[1], 1, &job->out_ref);
  }
  if (given == 2 && kind == kSum) napi_get_value_bool(env, args[1], &job->half);
  if (given == 2 && kind == kDigest) {
    bool lossless = false;
    napi_get_value_bigint_uint64(env, args[1], &job->digest, &lossless);
  }
  return job;
}

static napi_value EnqueueNew(napi_env env, napi_callback_info info, Kind kind, size_t given) {
  Job* job = NewJob(env, info, kind, given);
  return job ? Enqueue(env, job) : Refuse(env, "expected typed arrays that fit, after start()");
}

static napi_value ExchangeBytes(napi_env env, napi_callback_info info) {
  return EnqueueNew(env, info, kExchange, 2);
}
static napi_value SumValues(napi_env env, napi_callback_info info) {
  return EnqueueNew(env, info, kSum, 2);
}
static napi_value DigestBytes(napi_env env, napi_callback_info info) {
  return EnqueueNew(env, info, kDigest, 2);
}
static napi_value FinishMpi(napi_env env, napi_callback_info info) {
  return EnqueueNew(env, info, kFinish, 0);
}

static napi_value Version(napi_env env, napi_callback_info info) {
  (void)info;
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  for (char* at = text; *at != '\0'; at++) {
    if (*at == '\t') *at = ' ';
    if (*at == '\n') *at = '\0';
    if (*at == '\0') break;
  }
  return Text(env, text);
}

static napi_value GiveUp(napi_env env, napi_callback_info info) {
  (void)env;
  (void)info;
  atomic_store(&g.given_up, true);
  return NULL;
}

static napi_value SetProgress(napi_env env, napi_callback_info info) {
  napi_value value;
  size_t count = 1;
  int32_t progress = 0;
  napi_get_cb_info(env, info, &count, &value, NULL, NULL);
  napi_get_value_int32(env, value, &progress);
  atomic_store(&g.progress, progress);
  return NULL;
}

// For each rank: whether it is waited for, and the seconds since its last beat, since its last
// progress, and from the beginning of the last exchange to its message.
static napi_value Peers(napi_env env, napi_callback_info info) {
  (void)info;
  napi_value buffer, result = NULL;
  void* data = NULL;
  const size_t size = g.peers ? (size_t)g.size : 0;
  if (napi_create_arraybuffer(env, sizeof(double) * 4 * size, &data, &buffer) != napi_ok)
    return NULL;
  double* values = data;
  const double now = Now();
  for (size_t r = 0; r < size; r++) {
    values[4 * r] = atomic_load(&g.peers[r].waiting) != 0;
    values[4 * r + 1] = now - atomic_load(&g.peers[r].beat);
    values[4 * r + 2] = now - atomic_load(&g.peers[r].progressed);
    values[4 * r + 3] = atomic_load(&g.peers[r].arrived);
  }
  napi_create_typedarray(env, napi_float64_array, 4 * size, buffer, 0, &result);
  return result;
}

static napi_value Init(napi_env env, napi_value exports) {
  const struct {
    const char* name;
    napi_callback function;
  } functions[] = {{"version", Version}, {"start", StartMpi},          {"exchange", ExchangeBytes},
                   {"sum", SumValues},   {"digest", DigestBytes},      {"finish", FinishMpi},
                   {"giveUp", GiveUp},   {"setProgress", SetProgress}, {"peers", Peers}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
    napi_value function;
    if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].function, NULL,
                             &function) != napi_ok)
      return NULL;
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  napi_set_named_property(env, exports, "form", Number(env, kForm));
  return exports;
}

NAPI_MODULE(lora_mpi, Init)
