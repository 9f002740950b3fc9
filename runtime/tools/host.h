// SPDX-License-Identifier: MIT
// What the command-line tools share: messages, arguments, a loaded model with its buffers, time.
// Tools may use stdio and malloc; the library may not.

#ifndef BST_TOOLS_HOST_H_
#define BST_TOOLS_HOST_H_

#ifndef _POSIX_C_SOURCE
#define _POSIX_C_SOURCE 200809L  // clock_gettime
#endif

#include <bst.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text.h"
#ifndef BST_STATIC  // a static program cannot load what is not in it
#include <dlfcn.h>
#endif

/// Exit codes of every bestdeploy command.
enum {
  BST_EXIT_OK = 0,
  BST_EXIT_USAGE = 2,
  BST_EXIT_UNSUPPORTED = 4,
  BST_EXIT_DIFFERENT = 5,
  BST_EXIT_BAD_INPUT = 7,
  BST_EXIT_CANNOT_WRITE = 8,
};

/// Options that both tools take.
typedef struct bst_options {
  const char *model_path, *source_path, *isa, *module_path;  ///< NULL = not given
  uint32_t n_threads;
  bool golden;
} bst_options;

/// A model, and a session whose frames run on n_threads threads or a module.
typedef struct bst_loaded {
  void *file_piece, *model_piece, *pool_piece, *arena_piece;  ///< to free
  void* module_handle;                                        ///< to close, last of all
  bst_module* module;                                         ///< NULL: there is a session
  bst_model* model;
  bst_pool* pool;  ///< NULL: one thread
  bst_session* session;
  uint32_t n_threads;
  bst_model_info info;
} bst_loaded;

/// Print `error: ...` and `hint: ...` to stderr and return the exit code.
static inline int bst_complain(int code, const char* hint, const char* format, ...)
    BST_LIKE_PRINTF(3, 4);
static inline int bst_complain(int code, const char* hint, const char* format, ...) {
  va_list arguments;
  fputs("error: ", stderr);
  va_start(arguments, format);
  bst_vput(stderr, format, arguments);
  va_end(arguments);
  bst_put(stderr, "\nhint: %s\n", hint);
  return code;
}

/// Write out the results so far; `code`, or that they cannot be written where `code` is success.
static inline int bst_flushed(int code) {
  if ((fflush(stdout) != 0 || ferror(stdout)) && code == BST_EXIT_OK) {
    return bst_complain(BST_EXIT_CANNOT_WRITE, "check standard output", "cannot write the result");
  }
  return code;
}

/// A failed call on the model at `path`.
static inline int bst_complain_status(const char* path, bst_status status) {
  if (status == BST_UNSUPPORTED) {
    return bst_complain(BST_EXIT_UNSUPPORTED,
                        "use the program that was made with this file or a newer one", "`%s`: %s",
                        path, bst_last_error());
  }
  return bst_complain(BST_EXIT_BAD_INPUT,
                      "copy the file again, or compile it again: bestdeploy compile",
                      "`%s`: %s: %s", path, bst_status_name(status), bst_last_error());
}

/// Whether the kernels of `isa` can be used here; NULL = the best ones.
static inline bool bst_has_isa(const char* isa) {
  uint32_t i = 0;
  while (isa != NULL && bst_isa_name(i) != NULL && strcmp(bst_isa_name(i), isa) != 0) ++i;
  return isa == NULL || bst_isa_name(i) != NULL;
}

/// malloc with alignment; `*piece` is what to free.
static inline void* bst_allocate(size_t bytes, void** piece) {
  *piece = bytes > SIZE_MAX - BST_ALIGN ? NULL : malloc(bytes + BST_ALIGN);
  if (*piece == NULL) return NULL;
  const uintptr_t address = (uintptr_t)*piece;
  return (uint8_t*)*piece + (BST_ALIGN - address % BST_ALIGN) % BST_ALIGN;
}

/// Whole file into aligned memory; NULL with a message on failure.
static inline void* bst_read_file(const char* path, size_t* bytes, void** piece) {
  const char* const hint = "check the path of the model";
  FILE* const stream = fopen(path, "rb");
  long size = -1;
  if (stream != NULL && fseek(stream, 0, SEEK_END) == 0) size = ftell(stream);
  if (size < 0 || fseek(stream, 0, SEEK_SET) != 0) {
    (void)bst_complain(0, hint, "cannot read `%s`: %s", path, strerror(errno));
    if (stream != NULL) fclose(stream);
    return NULL;
  }
  *bytes = (size_t)size;
  void* const content = bst_allocate(*bytes, piece);
  const bool complete = content != NULL && fread(content, 1, *bytes, stream) == *bytes;
  fclose(stream);
  if (!complete) (void)bst_complain(0, hint, "cannot read all of `%s`", path);
  return complete ? content : NULL;
}

static inline void bst_unload(bst_loaded* loaded) {
  // Threads that did not end still use what they were given.
  if (loaded->pool != NULL && bst_pool_stop(loaded->pool) != BST_OK) return;
  free(loaded->arena_piece);
  free(loaded->pool_piece);
  free(loaded->model_piece);
  free(loaded->file_piece);
#ifndef BST_STATIC
  if (loaded->module_handle != NULL) (void)dlclose(loaded->module_handle);
#endif
}

static inline int bst_complain_memory(const char* what, size_t bytes) {
  return bst_complain(BST_EXIT_BAD_INPUT, "use a machine with more memory",
                      "no memory for %s: %zu bytes", what, bytes);
}

/// Start the threads beside this one, where there are to be any.
static inline int bst_load_pool(bst_loaded* loaded) {
  size_t bytes = 0;
  if (loaded->n_threads == 1) return BST_EXIT_OK;
  bst_status status = bst_pool_bytes(loaded->n_threads, &bytes);
  if (status == BST_OK) {
    void* const buffer = bst_allocate(bytes, &loaded->pool_piece);
    if (buffer == NULL) return bst_complain_memory("the threads", bytes);
    status = bst_pool_init(buffer, bytes, loaded->n_threads, &loaded->pool);
  }
  if (status == BST_OK) return BST_EXIT_OK;
  return bst_complain(status == BST_UNSUPPORTED ? BST_EXIT_UNSUPPORTED : BST_EXIT_BAD_INPUT,
                      "give a smaller number, or leave --threads out", "--threads %lu: %s",
                      (unsigned long)loaded->n_threads, bst_last_error());
}

static inline int bst_load_session(const char* path, bst_loaded* loaded) {
  size_t bytes = 0;
  bst_status status = bst_arena_bytes(loaded->model, loaded->n_threads, &bytes);
  if (status != BST_OK) return bst_complain_status(path, status);
  void* const arena = bst_allocate(bytes, &loaded->arena_piece);
  if (arena == NULL) return bst_complain_memory("the arena", bytes);
  status = bst_session_init(loaded->model, loaded->pool, arena, bytes, &loaded->session);
  return status == BST_OK ? BST_EXIT_OK : bst_complain_status(path, status);
}

#ifdef BST_STATIC
static inline int bst_load_module(const char* path, bst_loaded* loaded) {
  (void)loaded;
  return bst_complain(BST_EXIT_UNSUPPORTED,
                      "use the bst_run of a bundle made with --backend tvm: it is not static",
                      "this program is static and cannot load `%s`", path);
}
#else
/// Load a module of TVM and lay its weights out.
static inline int bst_load_module(const char* path, bst_loaded* loaded) {
  static const char hint[] = "compile it again from this model: bestdeploy compile --backend tvm";
  char place[4096];
  size_t bytes = 0;
  const int n = snprintf(place, sizeof place, "%s%s", strchr(path, '/') == NULL ? "./" : "", path);
  if (n < 0 || (size_t)n >= sizeof place) {
    return bst_complain(BST_EXIT_BAD_INPUT, "use a shorter path", "--module is too long");
  }
  loaded->module_handle = dlopen(place, RTLD_NOW | RTLD_LOCAL);
  if (loaded->module_handle == NULL) {
    return bst_complain(BST_EXIT_BAD_INPUT, hint, "cannot load the module: %s", dlerror());
  }
  bst_status status = bst_module_bytes(loaded->model, dlsym, loaded->module_handle, &bytes);
  if (status == BST_OK) {
    void* const buffer = bst_allocate(bytes, &loaded->arena_piece);
    if (buffer == NULL) return bst_complain_memory("the module", bytes);
    status = bst_model_open_module(loaded->model, dlsym, loaded->module_handle, buffer, bytes,
                                   &loaded->module);
  }
  if (status == BST_OK) return BST_EXIT_OK;
  return bst_complain(BST_EXIT_BAD_INPUT, hint, "`%s`: %s", path, bst_last_error());
}
#endif

/// Run one frame in the module, where there is one, else in the session.
static inline bst_status bst_run_once(const bst_loaded* loaded, const uint8_t* frame,
                                      int64_t* raw) {
  const size_t frame_bytes = (size_t)loaded->info.frame_bytes, n_raw = loaded->info.n_classes;
  return loaded->module != NULL ? bst_module_run(loaded->module, frame, frame_bytes, raw, n_raw)
                                : bst_session_run(loaded->session, frame, frame_bytes, raw, n_raw);
}

/// Read, check and prepare a model and its session or module.
/// @return exit code; a message was printed unless it is 0
static inline int bst_load(const bst_options* options, bst_loaded* loaded) {
  const char* const path = options->model_path;
  size_t file_bytes, model_bytes;
  memset(loaded, 0, sizeof *loaded);
  loaded->n_threads = options->n_threads;
  const void* const file = bst_read_file(path, &file_bytes, &loaded->file_piece);
  if (file == NULL) return BST_EXIT_BAD_INPUT;
  bst_status status = bst_model_bytes(file, file_bytes, options->isa, &model_bytes);
  if (status == BST_UNSUPPORTED && !bst_has_isa(options->isa)) {
    return bst_complain(BST_EXIT_UNSUPPORTED, "leave --isa out: the best one is taken", "%s",
                        bst_last_error());
  }
  if (status != BST_OK) return bst_complain_status(path, status);
  void* const buffer = bst_allocate(model_bytes, &loaded->model_piece);
  if (buffer == NULL) return bst_complain_memory("the model", model_bytes);
  status = bst_model_init(file, file_bytes, options->isa, buffer, model_bytes, &loaded->model);
  if (status == BST_OK) status = bst_model_describe(loaded->model, &loaded->info);
  if (status != BST_OK) return bst_complain_status(path, status);
  if (options->module_path != NULL) return bst_load_module(options->module_path, loaded);
  const int code = bst_load_pool(loaded);
  return code != BST_EXIT_OK ? code : bst_load_session(path, loaded);
}

/// Microseconds of a clock that only moves forward.
static inline double bst_now_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec * 1e-3;
}

/// Run every test vector of the file; return how many gave the exact raw logits.
static inline uint32_t bst_run_golden(const bst_loaded* loaded, int64_t* raw) {
  uint32_t n_equal = 0;
  for (uint32_t i = 0; i < loaded->info.n_golden; ++i) {
    const uint8_t* frame;
    const int64_t* expected;
    if (bst_model_golden(loaded->model, i, &frame, &expected) != BST_OK) continue;
    if (bst_run_once(loaded, frame, raw) != BST_OK) continue;
    n_equal += memcmp(raw, expected, loaded->info.n_classes * sizeof *raw) == 0;
  }
  return n_equal;
}

/// Print the usage line of a help text and a message to stderr.
#define BST_BAD_USAGE(help, hint, ...)                                    \
  (fwrite((help), 1, strcspn((help), "\n"), stderr), fputc('\n', stderr), \
   bst_complain(BST_EXIT_USAGE, (hint), __VA_ARGS__))

/// @return false with a message when the number is not 1 .. BST_MAX_THREADS
static inline bool bst_parse_threads(const char* text, const char* help, uint32_t* n_threads) {
  char* end = NULL;
  const long n = strtol(text, &end, 10);
  if (*text == '\0' || *end != '\0' || n < 1 || n > BST_MAX_THREADS) {
    (void)BST_BAD_USAGE(help, "give a number", "--threads is `%s`, expected 1..%d", text,
                        (int)BST_MAX_THREADS);
    return false;
  }
  *n_threads = (uint32_t)n;
  return true;
}

/// Read the arguments. `with_source` allows a second positional argument and --golden.
/// @return exit code, or -1 when --help or --version were printed and the tool is done
static inline int bst_parse(int argc, char** argv, const char* help, bool with_source,
                            bst_options* options) {
  const char* const hint = "--help lists the options";
  *options = (bst_options){.n_threads = 1};
  for (int i = 1; i < argc; ++i) {
    const char* const word = argv[i];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
      fputs(help, stdout);
      return -1;
    }
    if (strcmp(word, "--version") == 0) {
      puts(bst_version());
      return -1;
    }
    if (strcmp(word, "--json") == 0) continue;  // the output is JSON lines anyway
    if (with_source && strcmp(word, "--golden") == 0) {
      options->golden = true;
    } else if (strcmp(word, "--isa") == 0 || strcmp(word, "--threads") == 0 ||
               strcmp(word, "--module") == 0) {
      if (i + 1 == argc) return BST_BAD_USAGE(help, hint, "`%s` needs a value", word);
      const char* const value = argv[++i];
      if (word[2] == 'i') {
        options->isa = value;
      } else if (word[2] == 'm') {
        options->module_path = value;
      } else if (!bst_parse_threads(value, help, &options->n_threads)) {
        return BST_EXIT_USAGE;
      }
    } else if (word[0] == '-' && word[1] != '\0') {
      return BST_BAD_USAGE(help, hint, "unknown option `%s`", word);
    } else if (options->model_path == NULL) {
      options->model_path = word;
    } else if (with_source && options->source_path == NULL) {
      options->source_path = word;
    } else {
      return BST_BAD_USAGE(help, hint, "one argument too many: `%s`", word);
    }
  }
  if (options->model_path == NULL) return BST_BAD_USAGE(help, hint, "no MODEL.bstm given");
  if (options->module_path != NULL && (options->isa != NULL || options->n_threads > 1)) {
    return BST_BAD_USAGE(help, "leave --isa and --threads out",
                         "a module has its own code and runs on one thread");
  }
  if (with_source && options->source_path == NULL && !options->golden) {
    return BST_BAD_USAGE(help, hint, "no SOURCE given");
  }
  return BST_EXIT_OK;
}

#endif  // BST_TOOLS_HOST_H_
