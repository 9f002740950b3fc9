// SPDX-License-Identifier: MIT
// Mutation driver: mutate FILE COUNT SEED. Changes 1..4 fields of a valid .bstm at a time, fixes
// the checksum, loads and, where it is valid, runs it. Meant for builds with sanitizers: every
// buffer is its own allocation of the exact size. Prints "valid refused".

#include <bst.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t state;

static uint64_t next(void) {  // splitmix64
  uint64_t z = (state += UINT64_C(0x9E3779B97F4A7C15));
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
  return z ^ (z >> 31);
}

static uint32_t crc32_of(const uint8_t* bytes, size_t n) {
  uint32_t crc = UINT32_MAX;
  for (size_t i = 0; i < n; ++i) {
    crc ^= i >= 24 && i < 28 ? 0 : bytes[i];
    for (int k = 0; k < 8; ++k) crc = (crc >> 1) ^ (UINT32_C(0xEDB88320) & (0U - (crc & 1)));
  }
  return ~crc;
}

static uint64_t interesting(uint64_t old) {
  static const uint64_t values[] = {
      0,          1,          2,          3,           7,          8,
      9,          16,         63,         64,          65,         255,
      256,        1024,       4096,       65535,       65536,      0x7FFFFFFF,
      0x80000000, 0xFFFFFFFF, 0xFFFFFFF0, 0x100000000, UINT64_MAX, UINT64_MAX - 63};
  switch (next() % 4) {
    case 0:
      return values[next() % (sizeof values / sizeof *values)];
    case 1:
      return old + (next() % 9) - 4;
    case 2:
      return old ^ (UINT64_C(1) << (next() % 64));
    default:
      return next();
  }
}

static uint64_t get(const uint8_t* bytes, size_t at, size_t width) {
  uint64_t value = 0;
  memcpy(&value, bytes + at, width);
  return value;
}

/// Offset of the section in row `row` of the table of an unharmed file.
static size_t section(const uint8_t* bytes, size_t row) {
  return (size_t)get(bytes, 64 + 32 * row + 8, 8);
}

/// Position of one item of one constant: all constants are hit alike, however small.
static size_t pick_item(const uint8_t* original, size_t* width) {
  static const size_t widths[] = {1, 1, 1, 2, 4, 8};
  const size_t n = (size_t)get(original, 64 + 32 * 3 + 24, 8);
  const size_t record = section(original, 3) + 48 * (size_t)(next() % n);
  *width = widths[get(original, record, 4)];
  const size_t offset = (size_t)get(original, record + 24, 8);
  const size_t n_items = (size_t)get(original, record + 32, 8) / *width;
  return section(original, 4) + offset + *width * (size_t)(next() % n_items);
}

/// Change one field: of the records, of a constant, or anywhere.
static void mutate(const uint8_t* original, uint8_t* bytes, size_t n) {
  size_t width = (size_t)1 << (next() % 4), at;
  const uint64_t where = next() % 4;
  if (where == 0) {
    at = pick_item(original, &width);
  } else {
    const size_t limit = where == 1 ? n : section(original, 4);
    at = (size_t)next() % (limit - width) / width * width;
    if (at >= 16 && at < 28 && next() % 16 != 0) at += 32;  // total size and checksum: rarely
  }
  const uint64_t value = interesting(get(bytes, at, width));
  memcpy(bytes + at, &value, width);
}

static void* exact(size_t bytes) {
  void* memory = NULL;
  if (posix_memalign(&memory, 64, bytes == 0 ? 1 : bytes) != 0) return NULL;
  memset(memory, 0xA5, bytes);
  return memory;
}

/// Load and run; return 1 when the file is valid.
static int try_file(const uint8_t* file, size_t n, const char* isa) {
  enum { BIGGEST = 1 << 26 };  // a valid file may ask for much memory: do not run those
  size_t model_bytes = 0, arena_bytes = 0;
  bst_model* model = NULL;
  bst_session* session = NULL;
  bst_model_info info;
  if (bst_model_bytes(file, n, isa, &model_bytes) != BST_OK)
    return bst_last_error()[0] == '\0' ? -1 : 0;
  if (model_bytes > BIGGEST) return 1;
  void* const buffer = exact(model_bytes);
  if (bst_model_init(file, n, isa, buffer, model_bytes, &model) != BST_OK) return -1;
  if (bst_arena_bytes(model, 1, &arena_bytes) != BST_OK) return -1;
  if (bst_model_describe(model, &info) != BST_OK) return -1;
  if (arena_bytes <= BIGGEST) {
    void* const arena = exact(arena_bytes);
    uint8_t* const frame = exact((size_t)info.frame_bytes);
    int64_t* const raw = exact(info.n_classes * sizeof *raw);
    if (bst_session_init(model, NULL, arena, arena_bytes, &session) != BST_OK) return -1;
    if (bst_session_run(session, frame, (size_t)info.frame_bytes, raw, info.n_classes) != BST_OK) {
      return -1;
    }
    for (uint32_t i = 0; i < info.n_program_steps; ++i) {
      bst_step_info step;
      if (bst_model_step(model, i, &step) != BST_OK || strlen(step.name) == 0) return -1;
    }
    free(raw);
    free(frame);
    free(arena);
  }
  free(buffer);
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  FILE* const stream = fopen(argv[1], "rb");
  if (stream == NULL) return 2;
  static uint8_t original[1 << 22];
  const size_t n = fread(original, 1, sizeof original, stream);
  fclose(stream);
  state = strtoull(argv[3], NULL, 10);
  unsigned long valid = 0, refused = 0;
  uint8_t* const file = exact(n);
  for (unsigned long i = 0; i < strtoul(argv[2], NULL, 10); ++i) {
    memcpy(file, original, n);
    for (uint64_t k = 1 + next() % 4; k > 0; --k) mutate(original, file, n);
    const uint32_t crc = crc32_of(file, n);
    if (next() % 64 != 0) memcpy(file + 24, &crc, 4);
    const int result = try_file(file, n, bst_isa_name((uint32_t)(next() % 2)));
    if (result < 0) {
      fprintf(stderr, "mutation %lu: %s\n", i, bst_last_error());
      return 1;
    }
    valid += result == 1;
    refused += result == 0;
  }
  free(file);
  printf("%lu %lu\n", valid, refused);
  return 0;
}
