// A stand-in for CUDA's driver: streams are threads, device memory is the process's own. It has what
// the kernels look up by name, and fake_... functions for the tests. Build with -shared -pthread.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned long long Address;
typedef struct {
  int operation;
  Address address;
  uint64_t value;
  unsigned flags;
  Address alias;
  uint64_t unused;
} MemoryOp;

typedef struct Op {
  enum { COPY, CALL, WAIT, WRITE, POST, FETCH } kind;
  Address to, from;
  size_t bytes;
  uint32_t value;
  void (*function)(void*);
  struct Op* next;
  struct {  // the kernels' parameters
    Address x_to, x_from, ids_to, ids_from, weights_to, weights_from, words;
    uint32_t pieces, ids_words, weights_words, tokens;
  } post;
  struct {
    Address to, from;
    uint32_t pieces, unused;
  } fetch;
} Op;

typedef struct {
  int context, capturing;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  Op *first, *last, *graph, *graph_last;
  int pending;
} Stream;

enum { MEMORY_OPS, DEVICES, ORDINAL, FAIL_COPY, FAIL_REGISTER, OWN_ADDRESSES, SETTINGS };
static int settings[SETTINGS] = {1, 1, 0, 0, 0, 0};
static int registered = 0, synchronised = 0, launched = 0;
static __thread void* current[16];
static __thread int depth = 0;
static int contexts[8] = {0, 1, 2, 3, 0, 1, 2, 3};  // of four devices, two each

void fake_set(int setting, int value) { settings[setting] = value; }
int fake_registered(void) { return registered; }
int fake_synchronised(void) { return synchronised; }
int fake_launched(void) { return launched; }
int fake_context_depth(void) { return depth; }

// Of memory of the host, where the GPU has addresses of its own for it.
static const Address own_address = 1ull << 63;
static uint32_t* word_at(Address address) { return (uint32_t*)(address & ~own_address); }
static void write_word(Address word, uint32_t value) { __atomic_store_n(word_at(word), value, __ATOMIC_SEQ_CST); }

static void run_post(const Op* op) {
  memcpy((void*)op->post.x_to, (void*)op->post.x_from, 16 * (size_t)op->post.pieces);
  memcpy((void*)op->post.ids_to, (void*)op->post.ids_from, 4 * (size_t)op->post.ids_words);
  memcpy((void*)op->post.weights_to, (void*)op->post.weights_from, 4 * (size_t)op->post.weights_words);
  __atomic_store_n((uint64_t*)op->post.words, (uint64_t)op->post.tokens << 32, __ATOMIC_SEQ_CST);
}

static void run_op(const Op* op) {
  if (op->kind == COPY) memcpy((void*)op->to, (void*)op->from, op->bytes);
  if (op->kind == CALL) op->function((void*)op->to);
  if (op->kind == WRITE) write_word(op->to, op->value);
  if (op->kind == POST) run_post(op);
  if (op->kind == FETCH) memcpy((void*)op->fetch.to, (void*)op->fetch.from, 16 * (size_t)op->fetch.pieces);
  while (op->kind == WAIT && __atomic_load_n(word_at(op->to), __ATOMIC_SEQ_CST) != op->value) {
    const struct timespec pause = {0, 20000};
    nanosleep(&pause, NULL);
  }
}

static void* work(void* p) {
  Stream* s = p;
  for (;;) {
    pthread_mutex_lock(&s->lock);
    while (!s->first) pthread_cond_wait(&s->changed, &s->lock);
    Op* op = s->first;
    s->first = op->next;
    pthread_mutex_unlock(&s->lock);
    run_op(op);
    free(op);
    pthread_mutex_lock(&s->lock);
    --s->pending;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
  }
  return NULL;
}

void* fake_stream(int context) {
  Stream* s = calloc(1, sizeof *s);
  pthread_t thread;
  s->context = context;
  pthread_mutex_init(&s->lock, NULL);
  pthread_cond_init(&s->changed, NULL);
  pthread_create(&thread, NULL, work, s);
  pthread_detach(thread);
  return s;
}

static void append(Op** first, Op** last, const Op* op) {
  Op* copy = malloc(sizeof *copy);
  *copy = *op;
  copy->next = NULL;
  if (*first) (*last)->next = copy;
  else *first = copy;
  *last = copy;
}

static int put(Stream* s, Op op) {
  pthread_mutex_lock(&s->lock);
  if (s->capturing) {
    append(&s->graph, &s->graph_last, &op);
  } else {
    append(&s->first, &s->last, &op);
    ++s->pending;
    pthread_cond_broadcast(&s->changed);
  }
  pthread_mutex_unlock(&s->lock);
  return 0;
}

void fake_capture(void* stream, int on) { ((Stream*)stream)->capturing = on; }
void fake_replay(void* stream) {
  for (const Op* op = ((Stream*)stream)->graph; op; op = op->next) put(stream, *op);
}
void fake_synchronise(void* stream) {
  Stream* s = stream;
  pthread_mutex_lock(&s->lock);
  while (s->pending) pthread_cond_wait(&s->changed, &s->lock);
  pthread_mutex_unlock(&s->lock);
}

int cuInit(unsigned flags) { return flags ? 1 : settings[DEVICES] ? 0 : 100; }
int cuDeviceGet(int* handle, int device) { return *handle = device, 0; }
int cuDeviceGetCount(int* count) { return *count = settings[DEVICES], 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  (void)device;
  return *value = attribute == 122 ? settings[MEMORY_OPS] : 0, 0;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &contexts[device], 0; }
int cuCtxPushCurrent_v2(void* context) { return current[depth++] = context, 0; }
int cuCtxPopCurrent_v2(void** context) { return *context = current[--depth], 0; }
int cuCtxGetDevice(int* device) { return *device = *(int*)current[depth - 1], 0; }
int cuCtxSynchronize(void) { return ++synchronised, 0; }
int cuStreamGetCtx(void* stream, void** context) {
  return *context = &contexts[((Stream*)stream)->context], 0;
}
int cuMemHostRegister_v2(void* p, size_t bytes, unsigned flags) {
  if (settings[FAIL_REGISTER]) return settings[FAIL_REGISTER];
  return ++registered, !p || !bytes || flags != 3;
}
int cuMemHostUnregister(void* p) { return --registered, !p; }
int cuMemHostGetDevicePointer_v2(Address* address, void* p, unsigned flags) {
  return *address = (Address)p | (settings[OWN_ADDRESSES] ? own_address : 0), (int)flags;
}
int cuMemcpyAsync(Address to, Address from, size_t bytes, void* stream) {
  if (settings[FAIL_COPY]) return settings[FAIL_COPY];
  return put(stream, (Op){.kind = COPY, .to = to, .from = from, .bytes = bytes});
}
int cuLaunchHostFunc(void* stream, void (*function)(void*), void* context) {
  return put(stream, (Op){.kind = CALL, .to = (Address)context, .function = function});
}
int cuStreamBatchMemOp_v2(void* stream, unsigned count, MemoryOp* ops, unsigned flags) {
  for (unsigned i = 0; i < count; ++i) {
    const int wanted = ops[i].operation == 1 ? 1 : 0;  // wait: equal; write: no flag is known to it
    if ((ops[i].operation != 1 && ops[i].operation != 2) || (int)ops[i].flags != wanted) return 1;
    put(stream, (Op){.kind = wanted ? WAIT : WRITE, .to = ops[i].address, .value = (uint32_t)ops[i].value});
  }
  return (int)flags;
}
int cuModuleLoadData(void** module, const void* text) {
  return *module = (void*)text, strncmp(text, "\n.version ", 10) ? 218 : 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = strstr(module, name);
  return !*function;
}
int cuFuncLoad(void* function) { return !function; }
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y,
                   unsigned threads_z, unsigned shared, void* stream, void** parameters, void** extra) {
  Op op = {.kind = strncmp(function, "kt_post", 7) ? FETCH : POST};
  if (y * z * threads_y * threads_z != 1 || shared || extra || threads % 32 || threads > 1024) return 1;
  if (op.kind == POST) memcpy(&op.post, parameters[0], sizeof op.post);
  else memcpy(&op.fetch, parameters[0], sizeof op.fetch);
  if (op.kind == POST ? x != 1 : x * threads < op.fetch.pieces) return 1;
  ++launched;
  return put(stream, op);
}
int cuPointerGetAttribute(void* value, int attribute, Address address) {
  if (address < 4096) return 1;
  *(int*)value = attribute == 2 ? 2 : settings[ORDINAL];
  return 0;
}
int cuThreadExchangeStreamCaptureMode(int* mode) { return *mode = 2 - *mode, 0; }
int cuGetErrorName(int code, const char** name) {
  return *name = code == 1 ? "CUDA_ERROR_INVALID_VALUE" : code == 100 ? "CUDA_ERROR_NO_DEVICE"
                                                                      : "CUDA_ERROR_LAUNCH_FAILED", 0;
}
int cuGetErrorString(int code, const char** text) { return (void)code, *text = "made up", 0; }
