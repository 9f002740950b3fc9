// SPDX-License-Identifier: MIT
// Custom ops of the domain `bestdeploy` for ONNX Runtime, on the CPU kernels of libbst.
//
// A model.onnx carries every op of ours with a function body in standard ops. A session in which
// this library is registered runs the kernels of ops.c instead. Inputs and outputs are those of
// bestdeploy/ops: time steps outermost, then frames.
//
// What a graph may hold and a kernel does not take is refused with a status, never computed
// wrongly: ONNX Runtime does not fall back to the body of an op that has a kernel.
//
// The session option `bestdeploy.threads` (1..256, set before the library is registered) says
// between how many of the session's threads a node is shared; without it a node runs on one.

#include "bst_ort.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- What ONNX Runtime calls --------------------------------------------------------------------

static const bst_ort_entry* bst_ort_entry_of(const OrtCustomOp* op) {
  return (const bst_ort_entry*)(const void*)op;
}

static const char* bst_ort_name(const OrtCustomOp* op) { return bst_ort_entry_of(op)->name; }

static const char* bst_ort_provider(const OrtCustomOp* op) {
  (void)op;
  return NULL;
}

static size_t bst_ort_input_count(const OrtCustomOp* op) {
  return bst_ort_n_inputs(bst_ort_entry_of(op)->op);
}

static size_t bst_ort_output_count(const OrtCustomOp* op) {
  return bst_ort_entry_of(op)->op->step->n_outputs;
}

static OrtElementType bst_ort_input_type(const OrtCustomOp* op, size_t index) {
  const bst_ort_op* const row = bst_ort_entry_of(op)->op;
  const size_t n_data = row->step->n_inputs;
  if (index < n_data) return bst_ort_type_of(row->step->input_kinds[index]);
  return (OrtElementType)row->constants[index - n_data].type;
}

static OrtElementType bst_ort_output_type(const OrtCustomOp* op, size_t index) {
  return bst_ort_type_of(bst_ort_entry_of(op)->op->step->output_kinds[index]);
}

static int bst_ort_zero(const OrtCustomOp* op, size_t index) {
  (void)op;
  (void)index;
  return 0;
}

static void bst_ort_destroy(void* opaque) {
  if (opaque == NULL) return;
  bst_ort_node_close(opaque);
  free(opaque);
}

static OrtStatus* bst_ort_create(const OrtCustomOp* op, const OrtApi* api,
                                 const OrtKernelInfo* info, void** out) {
  bst_ort_node* const node = calloc(1, sizeof *node);
  *out = NULL;
  if (node == NULL) return api->CreateStatus(ORT_FAIL, "bestdeploy: no memory for a node");
  node->api = api;
  node->entry = bst_ort_entry_of(op);
  OrtStatus* const status = bst_ort_node_open(node, info);
  if (status != NULL) {
    bst_ort_destroy(node);
    return status;
  }
  *out = node;
  return NULL;
}

static OrtStatus* bst_ort_compute(void* opaque, OrtKernelContext* context) {
  return bst_ort_node_run(opaque, context);
}

// ---- Registration -------------------------------------------------------------------------------

/// A domain with its ops, for sessions that share a node between `n_parts` threads; lives until the
/// process ends.
typedef struct bst_ort_registry {
  struct bst_ort_registry* next;
  const OrtApi* api;
  OrtCustomOpDomain* domain;
  int n_parts;
  size_t n_entries;
  bst_ort_entry entries[];
} bst_ort_registry;

static _Atomic(bst_ort_registry*) bst_ort_registries;

static void bst_ort_fill_entry(const bst_ort_op* op, int n_steps, int n_parts,
                               bst_ort_entry* entry) {
  const OrtCustomOp base = {
      .version = ORT_API_VERSION_USED,
      .GetName = bst_ort_name,
      .GetExecutionProviderType = bst_ort_provider,
      .GetInputType = bst_ort_input_type,
      .GetInputTypeCount = bst_ort_input_count,
      .GetOutputType = bst_ort_output_type,
      .GetOutputTypeCount = bst_ort_output_count,
      .KernelDestroy = bst_ort_destroy,
      .GetInputCharacteristic = bst_ort_zero,
      .GetOutputCharacteristic = bst_ort_zero,
      .GetInputMemoryType = bst_ort_zero,
      .CreateKernelV2 = bst_ort_create,
      .KernelComputeV2 = bst_ort_compute,
  };
  entry->base = base;
  entry->op = op;
  entry->n_steps = n_steps;
  entry->n_parts = n_parts;
  if (n_steps == 0) {
    snprintf(entry->name, sizeof entry->name, "%s", op->name);
  } else {
    snprintf(entry->name, sizeof entry->name, "%s_T%d", op->name, n_steps);
  }
}

/// Entries of an op: one, or one per number of time steps.
static int bst_ort_n_names(const bst_ort_op* op) { return op->max_steps == 0 ? 1 : op->max_steps; }

static OrtStatus* bst_ort_fill(bst_ort_registry* registry) {
  const OrtApi* const api = registry->api;
  bst_ort_entry* entry = registry->entries;
  ORT_TRY(api->CreateCustomOpDomain("bestdeploy", &registry->domain));
  for (size_t i = 0; i < bst_ort_n_ops; ++i) {
    const bst_ort_op* const op = &bst_ort_ops[i];
    for (int t = 1; t <= bst_ort_n_names(op); ++t, ++entry) {
      bst_ort_fill_entry(op, op->max_steps == 0 ? 0 : t, registry->n_parts, entry);
      ORT_TRY(api->CustomOpDomain_Add(registry->domain, &entry->base));
    }
  }
  return NULL;
}

static void bst_ort_drop(bst_ort_registry* registry) {
  if (registry->domain != NULL) registry->api->ReleaseCustomOpDomain(registry->domain);
  free(registry);
}

static OrtStatus* bst_ort_make_registry(const OrtApi* api, int n_parts, bst_ort_registry** out) {
  size_t n = 0;
  for (size_t i = 0; i < bst_ort_n_ops; ++i) n += (size_t)bst_ort_n_names(&bst_ort_ops[i]);
  bst_ort_registry* const made = calloc(1, sizeof *made + n * sizeof(bst_ort_entry));
  if (made == NULL) return api->CreateStatus(ORT_FAIL, "bestdeploy: no memory for the ops");
  made->api = api;
  made->n_parts = n_parts;
  made->n_entries = n;
  OrtStatus* const status = bst_ort_fill(made);
  if (status != NULL) {
    bst_ort_drop(made);
    return status;
  }
  *out = made;
  return NULL;
}

/// Make the domain at the first call, whichever thread that is; later calls find it.
static OrtStatus* bst_ort_find_registry(const OrtApi* api, int n_parts, bst_ort_registry** out) {
  bst_ort_registry *head = atomic_load(&bst_ort_registries), *made = NULL;
  for (;;) {
    for (bst_ort_registry* found = head; found != NULL; found = found->next) {
      if (found->api != api || found->n_parts != n_parts) continue;
      if (made != NULL) bst_ort_drop(made);  // another thread was faster
      *out = found;
      return NULL;
    }
    if (made == NULL) ORT_TRY(bst_ort_make_registry(api, n_parts, &made));
    made->next = head;
    if (atomic_compare_exchange_strong(&bst_ort_registries, &head, made)) break;
  }
  *out = made;
  return NULL;
}

/// The session option `bestdeploy.threads`, 1 without it.
static OrtStatus* bst_ort_read_threads(const OrtApi* api, const OrtSessionOptions* options,
                                       int* n_parts) {
  char text[8] = "";
  size_t bytes = sizeof text;
  OrtStatus* const status = api->GetSessionConfigEntry(options, "bestdeploy.threads", text, &bytes);
  *n_parts = 1;
  if (status != NULL) {  // that is how it says "no such entry"
    api->ReleaseStatus(status);
    return NULL;
  }
  char* end;
  const long n = strtol(text, &end, 10);
  if (end == text || *end != '\0' || n < 1 || n > BST_MAX_THREADS) {
    return api->CreateStatus(ORT_INVALID_ARGUMENT,
                             "bestdeploy: session option bestdeploy.threads must be in 1..256");
  }
  *n_parts = (int)n;
  return NULL;
}

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base);

OrtStatus* RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* const api = base->GetApi(ORT_API_VERSION_USED);
  bst_ort_registry* registry = NULL;
  int n_parts;
  if (api == NULL) {
    // The first version has the slot that makes an error; without it there is no way to tell.
    const OrtApi* const oldest = base->GetApi(1);
    return oldest == NULL ? NULL
                          : oldest->CreateStatus(
                                ORT_FAIL, "bestdeploy: its custom ops need ONNX Runtime 1.17");
  }
  ORT_TRY(bst_ort_read_threads(api, options, &n_parts));
  ORT_TRY(bst_ort_find_registry(api, n_parts, &registry));
  return api->AddCustomOpDomain(options, registry->domain);
}
