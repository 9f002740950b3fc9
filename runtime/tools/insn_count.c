// SPDX-License-Identifier: MIT
// Plugin of the user-mode emulators of QEMU (7.2 and later, plugin interface 1): counts the
// instructions that an emulated program executes, by function and by region. Instruction counts are
// exact and the same every time; they are not time.
//
//   cc -shared -fPIC -O2 insn_count.c -o libinsn_count.so
//   qemu-aarch64 -plugin ./libinsn_count.so,mark=bench_mark -d plugin -D counts.jsonl PROGRAM ...
//
//   mark=NAME  a function of the program; every entry of it ends a region (region 0 began with the
//              program). Its own instructions are not counted.
//
// One JSON line {"region", "symbol", "n"} per region and function that executed something in it; an
// empty symbol is code without one. The last line is {"regions", "total"}. The program must not be
// stripped and must have one thread; `-d plugin` is what makes the emulator load symbols.
//
// A translation block runs from its first instruction to its last: a run of instructions of one
// function within it is counted by one addition where the run begins. The interface is declared
// here, because emulators are packaged without its header.

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- The part of the plugin interface that is used ----------------------------------------------

#define BST_EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { QEMU_PLUGIN_INLINE_ADD_U64 = 0, QEMU_PLUGIN_CB_NO_REGS = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*translated)(qemu_plugin_id_t id,
                                                              struct qemu_plugin_tb* block));
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id,
                                    void (*ended)(qemu_plugin_id_t id, void* user), void* user);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb* block,
                                          void (*entered)(unsigned cpu, void* user), int flags,
                                          void* user);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn* instruction, int operation,
                                                void* counter, uint64_t add);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb* block);
struct qemu_plugin_insn* qemu_plugin_tb_get_insn(const struct qemu_plugin_tb* block, size_t i);
const char* qemu_plugin_insn_symbol(const struct qemu_plugin_insn* instruction);
void qemu_plugin_outs(const char* text);

BST_EXPORT int qemu_plugin_version = 1;
BST_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc,
                                   char** argv);

// ---- Counters -----------------------------------------------------------------------------------

enum { BST_NAME_BYTES = 96 };

/// A function of the program. Never freed: translated code adds to `n`.
typedef struct bst_function {
  struct bst_function* next;
  uint64_t n, n_before;  // executed; of these in earlier regions
  char name[BST_NAME_BYTES];
} bst_function;

static bst_function* bst_functions;
static const char* bst_mark = "";
static unsigned long bst_region;

/// The counter of a function, made when it is met first.
static bst_function* bst_function_named(const char* name) {
  char cut[BST_NAME_BYTES];
  snprintf(cut, sizeof cut, "%s", name == NULL ? "" : name);
  for (bst_function* f = bst_functions; f != NULL; f = f->next) {
    if (strcmp(f->name, cut) == 0) return f;
  }
  bst_function* const made = calloc(1, sizeof *made);
  if (made == NULL) {
    fputs("error: insn_count: no memory\n", stderr);
    exit(1);
  }
  memcpy(made->name, cut, sizeof cut);
  made->next = bst_functions;
  bst_functions = made;
  return made;
}

static bool bst_is_mark(const bst_function* f) {
  return *bst_mark != '\0' && strcmp(f->name, bst_mark) == 0;
}

static void bst_print_region(void) {
  char line[BST_NAME_BYTES + 96];
  for (bst_function* f = bst_functions; f != NULL; f = f->next) {
    if (f->n == f->n_before || bst_is_mark(f)) continue;
    snprintf(line, sizeof line, "{\"region\": %lu, \"symbol\": \"%s\", \"n\": %llu}\n", bst_region,
             f->name, (unsigned long long)(f->n - f->n_before));
    qemu_plugin_outs(line);
    f->n_before = f->n;
  }
  ++bst_region;
}

static void bst_marked(unsigned cpu, void* user) {
  (void)cpu;
  (void)user;
  bst_print_region();
}

static void bst_translated(qemu_plugin_id_t id, struct qemu_plugin_tb* block) {
  (void)id;
  const size_t n = qemu_plugin_tb_n_insns(block);
  for (size_t first = 0, end; first < n; first = end) {
    struct qemu_plugin_insn* const begin = qemu_plugin_tb_get_insn(block, first);
    bst_function* const f = bst_function_named(qemu_plugin_insn_symbol(begin));
    for (end = first + 1; end < n; ++end) {
      const char* const name = qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, end));
      if (bst_function_named(name) != f) break;
    }
    qemu_plugin_register_vcpu_insn_exec_inline(begin, QEMU_PLUGIN_INLINE_ADD_U64, &f->n,
                                               end - first);
    // A call begins a block.
    if (first == 0 && bst_is_mark(f)) {
      qemu_plugin_register_vcpu_tb_exec_cb(block, bst_marked, QEMU_PLUGIN_CB_NO_REGS, NULL);
    }
  }
}

static void bst_ended(qemu_plugin_id_t id, void* user) {
  (void)id;
  (void)user;
  uint64_t total = 0;
  bst_print_region();
  for (const bst_function* f = bst_functions; f != NULL; f = f->next) {
    if (!bst_is_mark(f)) total += f->n;
  }
  char line[96];
  snprintf(line, sizeof line, "{\"regions\": %lu, \"total\": %llu}\n", bst_region,
           (unsigned long long)total);
  qemu_plugin_outs(line);
}

BST_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t* info, int argc,
                                   char** argv) {
  (void)info;
  for (int i = 0; i < argc; ++i) {
    if (strncmp(argv[i], "mark=", 5) != 0) {
      fprintf(stderr, "error: insn_count: unknown argument `%s`, expected mark=NAME\n", argv[i]);
      return 1;
    }
    char* const name = malloc(strlen(argv[i]));  // the arguments do not outlive this call
    if (name == NULL) return 1;
    bst_mark = strcpy(name, argv[i] + 5);
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, bst_translated);
  qemu_plugin_register_atexit_cb(id, bst_ended, NULL);
  return 0;
}
