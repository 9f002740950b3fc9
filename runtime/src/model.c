// SPDX-License-Identifier: MIT
// Reading a .bstm file in place: every rule of FORMAT.md is checked here and in ops*.c before a
// model exists, so that nothing later has to. Sizes are computed in 64 bits with caps that keep
// them there.

#include <string.h>

#include "internal.h"

enum {
  BST_SECTION_MODEL = 1,
  BST_SECTION_BUFFERS = 2,
  BST_SECTION_STEPS = 3,
  BST_SECTION_CONSTANTS = 4,
  BST_SECTION_DATA = 5,
  BST_SECTION_META = 6,
  BST_SECTION_GOLDEN = 7,
  BST_SECTION_NAMES = 8,
  BST_N_SECTION_KINDS = 9,
  BST_FIRST_OPTIONAL_SECTION = 64,
  BST_CRC_OFFSET = 24,
  BST_MAX_NAME_BYTES = 255,
};

static const bst_where bst_in_header = {"header", -1, NULL};

static bst_where bst_at(const char* what, uint32_t index) {
  return (bst_where){what, (int64_t)index, NULL};
}

static bool bst_all_zero(const uint8_t* bytes, uint64_t n) {
  for (uint64_t i = 0; i < n; ++i) {
    if (bytes[i] != 0) return false;
  }
  return true;
}

// ---- Checksum -----------------------------------------------------------------------------------

enum { BST_HALF_BYTES = 8 };  // that a step takes: four bytes

/// CRC-32 (IEEE, as zlib): what half byte i of four bytes leaves, before those behind it came, is
/// in table[i], 512 bytes for all.
static void bst_crc_table(uint32_t table[BST_HALF_BYTES][16]) {
  for (uint32_t n = 0; n < 16; ++n) {
    uint32_t crc = n;
    for (int i = BST_HALF_BYTES; i-- > 0; table[i][n] = crc) {
      for (int bit = 0; bit < 4; ++bit) crc = (crc >> 1) ^ (0xEDB88320 & (0 - (crc & 1)));
    }
  }
}

/// Of a file, as if the checksum in it were 0.
static uint32_t bst_file_crc(const uint8_t* bytes, size_t n) {
  uint32_t table[BST_HALF_BYTES][16], crc = UINT32_MAX;
  bst_crc_table(table);
  for (size_t i = 0; i + 4 <= n; i += 4) {
    uint32_t word = 0;
    if (i != BST_CRC_OFFSET) memcpy(&word, bytes + i, sizeof word);
    word ^= crc;
    crc = 0;
    for (int k = 0; k < BST_HALF_BYTES; ++k) crc ^= table[k][word >> (4 * k) & 15];
  }
  for (size_t i = n / 4 * 4; i < n; ++i) {
    crc ^= bytes[i];
    for (int k = 0; k < 2; ++k) crc = (crc >> 4) ^ table[BST_HALF_BYTES - 1][crc & 15];
  }
  return ~crc;
}

// ---- Header and sections ------------------------------------------------------------------------

static bst_status bst_check_header(const uint8_t* bytes, size_t file_bytes) {
  BST_CHECK(file_bytes >= sizeof(bst_header), BAD_FILE, bst_in_header, "file size in bytes",
            file_bytes, "at least 64");
  const bst_header* const h = (const void*)bytes;
  BST_CHECK(memcmp(h->magic, "BSTM", 4) == 0, BAD_FILE, bst_in_header, "first byte", h->magic[0],
            "the start of `BSTM`");
  BST_CHECK(h->major == 1, UNSUPPORTED, bst_in_header, "format version", h->major, "1");
  BST_CHECK(h->header_bytes == sizeof *h, BAD_FILE, bst_in_header, "header_bytes", h->header_bytes,
            "64");
  BST_CHECK(h->total_bytes == file_bytes, BAD_FILE, bst_in_header, "total_bytes", h->total_bytes,
            "the size of the file");
  BST_CHECK(h->reserved == 0 && bst_all_zero(h->zero, sizeof h->zero), BAD_FILE, bst_in_header,
            "reserved", h->reserved, "0, like the last 32 bytes");
  const uint32_t crc = bst_file_crc(bytes, file_bytes);
  BST_CHECK(h->crc32 == crc, BAD_FILE, bst_in_header, "crc32", h->crc32,
            "the checksum of the file: it is damaged");
  BST_CHECK(h->n_sections >= 1 && h->n_sections <= BST_MAX_SECTIONS, BAD_FILE, bst_in_header,
            "n_sections", h->n_sections, "in 1..64");
  BST_CHECK(file_bytes >= sizeof *h + h->n_sections * sizeof(bst_section), BAD_FILE, bst_in_header,
            "n_sections", h->n_sections, "a number whose table fits the file");
  return BST_OK;
}

/// Check the section table; `found[kind]` points at each section of a known kind.
static bst_status bst_check_sections(const uint8_t* bytes, size_t file_bytes,
                                     const bst_section* found[BST_N_SECTION_KINDS]) {
  const bst_header* const h = (const void*)bytes;
  const bst_section* const table = (const void*)(bytes + sizeof *h);
  uint64_t end = sizeof *h + h->n_sections * sizeof *table;
  uint32_t previous = 0;
  for (uint32_t i = 0; i < h->n_sections; ++i) {
    const bst_section* const s = &table[i];
    const bst_where where = bst_at("section", i);
    BST_CHECK(s->kind > previous, BAD_FILE, where, "kind", s->kind, "above the one before");
    BST_CHECK(s->kind < BST_N_SECTION_KINDS || s->kind >= BST_FIRST_OPTIONAL_SECTION, UNSUPPORTED,
              where, "kind", s->kind, "known");
    BST_CHECK(s->reserved == 0, BAD_FILE, where, "reserved", s->reserved, "0");
    BST_CHECK(s->offset == bst_align_up(end, 64), BAD_FILE, where, "offset", s->offset,
              "the end of the section before, rounded up to 64");
    BST_CHECK(s->offset <= file_bytes && s->bytes <= file_bytes - s->offset, BAD_FILE, where,
              "bytes", s->bytes, "inside the file");
    BST_CHECK(bst_all_zero(bytes + end, s->offset - end), BAD_FILE, where, "padding before it", 1,
              "0");
    if (s->kind < BST_N_SECTION_KINDS) found[s->kind] = s;
    end = s->offset + s->bytes;
    previous = s->kind;
  }
  BST_CHECK(end == file_bytes, BAD_FILE, bst_in_header, "end of the last section", end,
            "the end of the file");
  return BST_OK;
}

/// Section of `count` records of `record_bytes`; `low`..`high` records.
static bst_status bst_check_records(const bst_section* s, uint32_t kind, uint64_t record_bytes,
                                    uint64_t low, uint64_t high, uint32_t* count) {
  const bst_where where = bst_at("section kind", kind);
  BST_CHECK(s != NULL, BAD_FILE, where, "presence", 0, "there");
  BST_CHECK(s->count >= low && s->count <= high, UNSUPPORTED, where, "count", s->count,
            "within the limits of FORMAT.md");
  BST_CHECK(s->bytes == s->count * record_bytes, BAD_FILE, where, "bytes", s->bytes,
            "count times the record size");
  *count = (uint32_t)s->count;
  return BST_OK;
}

static bst_status bst_check_text(const bst_section* s, uint32_t kind) {
  const bst_where where = bst_at("section kind", kind);
  BST_CHECK(s != NULL, BAD_FILE, where, "presence", 0, "there");
  BST_CHECK(s->count == s->bytes, BAD_FILE, where, "count", s->count, "its number of bytes");
  return BST_OK;
}

static bst_status bst_find_sections(const uint8_t* bytes, size_t file_bytes, bst_file* file) {
  const bst_section* found[BST_N_SECTION_KINDS] = {NULL};
  uint32_t n_models;
  BST_TRY(bst_check_sections(bytes, file_bytes, found));
  BST_TRY(bst_check_records(found[BST_SECTION_MODEL], BST_SECTION_MODEL, sizeof *file->model, 1, 1,
                            &n_models));
  BST_TRY(bst_check_records(found[BST_SECTION_BUFFERS], BST_SECTION_BUFFERS, sizeof *file->buffers,
                            2, BST_MAX_RECORDS, &file->n_buffers));
  BST_TRY(bst_check_records(found[BST_SECTION_STEPS], BST_SECTION_STEPS, sizeof *file->steps, 1,
                            BST_MAX_RECORDS, &file->n_steps));
  BST_TRY(bst_check_records(found[BST_SECTION_CONSTANTS], BST_SECTION_CONSTANTS,
                            sizeof *file->constants, 0, BST_MAX_FILE_CONSTANTS,
                            &file->n_constants));
  BST_TRY(bst_check_text(found[BST_SECTION_DATA], BST_SECTION_DATA));
  BST_TRY(bst_check_text(found[BST_SECTION_META], BST_SECTION_META));
  BST_TRY(bst_check_text(found[BST_SECTION_NAMES], BST_SECTION_NAMES));
  file->model = (const void*)(bytes + found[BST_SECTION_MODEL]->offset);
  file->buffers = (const void*)(bytes + found[BST_SECTION_BUFFERS]->offset);
  file->steps = (const void*)(bytes + found[BST_SECTION_STEPS]->offset);
  file->constants = (const void*)(bytes + found[BST_SECTION_CONSTANTS]->offset);
  file->data = bytes + found[BST_SECTION_DATA]->offset;
  file->data_bytes = (size_t)found[BST_SECTION_DATA]->bytes;
  file->names = (const char*)bytes + found[BST_SECTION_NAMES]->offset;
  file->names_bytes = (size_t)found[BST_SECTION_NAMES]->bytes;
  const bst_section* const golden = found[BST_SECTION_GOLDEN];
  if (golden != NULL) {
    BST_CHECK(golden->count <= UINT32_MAX, UNSUPPORTED, bst_at("section kind", golden->kind),
              "count", golden->count, "below 2^32");
    file->golden = bytes + golden->offset;
    file->golden_bytes = (size_t)golden->bytes;
    file->n_golden = (uint32_t)golden->count;
  }
  return BST_OK;
}

// ---- Model, buffers, constants, golden vectors --------------------------------------------------

static bst_status bst_check_range(const char* name, uint64_t value, uint64_t low, uint64_t high) {
  const bst_where where = {"model", -1, NULL};
  BST_CHECK(value >= low && value <= high, UNSUPPORTED, where, name, value,
            "within the limits of FORMAT.md");
  return BST_OK;
}

static bst_status bst_check_model(const bst_model_record* m) {
  const bst_where where = {"model", -1, NULL};
  BST_TRY(bst_check_range("height", m->height, 1, BST_MAX_SIDE));
  BST_TRY(bst_check_range("width", m->width, 1, BST_MAX_SIDE));
  BST_TRY(bst_check_range("channels", m->channels, 1, BST_MAX_CHANNELS));
  BST_TRY(bst_check_range("n_classes", m->n_classes, 1, BST_MAX_CHANNELS));
  BST_TRY(bst_check_range("n_steps", m->n_steps, 1, BST_MAX_T));
  BST_TRY(bst_check_range("frac_bits", m->frac_bits, 0, 30));
  BST_TRY(bst_check_range("logit_shift", m->logit_shift, 0, 62));
  BST_TRY(bst_check_range("arena_bytes", m->arena_bytes, 0, BST_MAX_ARENA_BYTES));
  BST_CHECK(m->arena_bytes % 64 == 0, BAD_FILE, where, "arena_bytes", m->arena_bytes,
            "a multiple of 64");
  BST_CHECK(m->reserved == 0 && bst_all_zero(m->zero, sizeof m->zero), BAD_FILE, where, "reserved",
            m->reserved, "0, like the last 24 bytes");
  return BST_OK;
}

/// Exact size of a buffer whose sides are within the caps: below 2^4 * 2^24 * 2^16 * 2^3.
static uint64_t bst_buffer_bytes(const bst_buffer* b) {
  const uint64_t cells = (uint64_t)b->t * b->h * b->w;
  switch (b->kind) {
    case BST_KIND_IMAGE:
      return cells * b->c;
    case BST_KIND_SPIKES:
      return cells * bst_n_words(b->c) * 8;
    case BST_KIND_STREAM:
      return cells * b->c * 4;
    default:
      return cells * b->c * 8;
  }
}

static bst_status bst_check_buffer(const bst_file* file, uint32_t index) {
  const bst_buffer* const b = &file->buffers[index];
  const bst_model_record* const m = file->model;
  const bst_where where = bst_at("buffer", index);
  BST_CHECK(b->kind >= BST_KIND_IMAGE && b->kind <= BST_KIND_RAW, UNSUPPORTED, where, "kind",
            b->kind, "in 1..4");
  BST_CHECK(b->reserved == 0, BAD_FILE, where, "reserved", b->reserved, "0");
  BST_CHECK((b->kind == BST_KIND_IMAGE) == (index == 0), BAD_FILE, where, "kind", b->kind,
            "1 (image) for buffer 0 alone");
  BST_CHECK(b->t >= 1 && b->t <= BST_MAX_T, UNSUPPORTED, where, "t", b->t, "in 1..16");
  BST_CHECK(b->h >= 1 && b->h <= BST_MAX_SIDE, UNSUPPORTED, where, "h", b->h, "in 1..4096");
  BST_CHECK(b->w >= 1 && b->w <= BST_MAX_SIDE, UNSUPPORTED, where, "w", b->w, "in 1..4096");
  BST_CHECK(b->c >= 1 && b->c <= BST_MAX_CHANNELS, UNSUPPORTED, where, "c", b->c, "in 1..65536");
  BST_CHECK(b->bytes == bst_buffer_bytes(b), BAD_FILE, where, "bytes", b->bytes,
            "the exact size of its shape");
  BST_CHECK(b->offset % 64 == 0, BAD_FILE, where, "offset", b->offset, "a multiple of 64");
  BST_CHECK(b->offset <= m->arena_bytes && b->bytes <= m->arena_bytes - b->offset, BAD_FILE, where,
            "offset", b->offset, "such that the buffer lies in the arena");
  if (b->kind == BST_KIND_IMAGE) {
    BST_CHECK(b->t == 1 || b->t == m->n_steps, BAD_FILE, where, "t", b->t,
              "1 (still image) or the model's number of steps (event frames)");
    BST_CHECK(b->h == m->height && b->w == m->width && b->c == m->channels, BAD_FILE, where,
              "height", b->h, "the model's, like its width and channels");
  }
  if (b->kind == BST_KIND_RAW) {
    BST_CHECK(b->t == 1 && b->h == 1 && b->w == 1 && b->c == m->n_classes, BAD_FILE, where, "c",
              b->c, "n_classes, its other sides 1");
  }
  return BST_OK;
}

/// Size of a constant's data, or a set `*overflow`.
static uint64_t bst_constant_bytes(const bst_constant* c, bool* overflow) {
  static const uint8_t item_bytes[] = {0, 1, 1, 2, 4, 8};
  uint64_t n = item_bytes[c->type];
  for (uint32_t i = 0; i < 4; ++i) {
    uint64_t side = c->dims[i];
    if (c->type == BST_CONST_BITS && i + 1 == c->n_dims) side = (side + 7) / 8;
    n = bst_mul(n, side, overflow);
  }
  return n;
}

/// Padding bits of the innermost rows are zero.
static bst_status bst_check_bits(const bst_file* file, uint32_t index) {
  const bst_constant* const c = &file->constants[index];
  const uint32_t n_bits = c->dims[c->n_dims - 1];
  const uint64_t row_bytes = ((uint64_t)n_bits + 7) / 8;
  if (n_bits % 8 == 0) return BST_OK;
  const uint8_t* const data = file->data + c->offset;
  for (uint64_t last = row_bytes - 1; last < c->bytes; last += row_bytes) {
    BST_CHECK(data[last] >> (n_bits % 8) == 0, BAD_FILE, bst_at("constant", index),
              "last byte of a row", data[last], "zero beyond its bits");
  }
  return BST_OK;
}

static bst_status bst_check_constant(const bst_file* file, uint32_t index, uint64_t* end) {
  const bst_constant* const c = &file->constants[index];
  const bst_where where = bst_at("constant", index);
  BST_CHECK(c->type >= BST_CONST_BITS && c->type <= BST_CONST_I64, UNSUPPORTED, where, "type",
            c->type, "in 1..5");
  BST_CHECK(c->reserved == 0, BAD_FILE, where, "reserved", c->reserved, "0");
  BST_CHECK(c->n_dims >= 1 && c->n_dims <= 4, BAD_FILE, where, "number of dims", c->n_dims,
            "in 1..4");
  for (uint32_t i = 0; i < 4; ++i) {
    BST_CHECK(c->dims[i] >= 1 && c->dims[i] <= INT32_MAX && (i < c->n_dims || c->dims[i] == 1),
              BAD_FILE, where, "a dimension", c->dims[i], "at least 1, and 1 where unused");
  }
  bool overflow = false;
  const uint64_t bytes = bst_constant_bytes(c, &overflow);
  BST_CHECK(!overflow && c->bytes == bytes, BAD_FILE, where, "bytes", c->bytes,
            "the exact size of its dims");
  BST_CHECK(c->offset == bst_align_up(*end, 8), BAD_FILE, where, "offset", c->offset,
            "the end of the constant before, rounded up to 8");
  BST_CHECK(c->offset <= file->data_bytes && c->bytes <= file->data_bytes - c->offset, BAD_FILE,
            where, "bytes", c->bytes, "inside DATA");
  BST_CHECK(bst_all_zero(file->data + *end, c->offset - *end), BAD_FILE, where, "padding before it",
            1, "0");
  *end = c->offset + c->bytes;
  return c->type == BST_CONST_BITS ? bst_check_bits(file, index) : BST_OK;
}

/// The checked buffer 0 is the image: it holds one frame.
static uint64_t bst_frame_bytes(const bst_file* file) { return file->buffers[0].bytes; }

static uint64_t bst_golden_bytes(const bst_file* file) {
  return bst_align_up(bst_frame_bytes(file), 8) + 8 * (uint64_t)file->model->n_classes;
}

static bst_status bst_check_golden(const bst_file* file) {
  const uint64_t record = bst_golden_bytes(file), frame = bst_frame_bytes(file);
  bool overflow = false;
  const uint64_t bytes = bst_mul(file->n_golden, record, &overflow);
  BST_CHECK(!overflow && bytes == file->golden_bytes, BAD_FILE, bst_at("section kind", 7), "bytes",
            file->golden_bytes, "count times a frame and its raw logits");
  for (uint32_t i = 0; i < file->n_golden; ++i) {
    const uint8_t* const padding = file->golden + i * record + frame;
    BST_CHECK(bst_all_zero(padding, bst_align_up(frame, 8) - frame), BAD_FILE, bst_at("golden", i),
              "padding", 1, "0");
  }
  return BST_OK;
}

// ---- Steps, order and arena ---------------------------------------------------------------------

static bool bst_is_name_char(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
         c == '.';
}

static bst_status bst_check_name(const bst_file* file, uint32_t index) {
  const uint32_t at = file->steps[index].name;
  const bst_where where = bst_at("step", index);
  BST_CHECK(at < file->names_bytes && file->names[file->names_bytes - 1] == '\0' &&
                (at == 0 || file->names[at - 1] == '\0'),
            BAD_FILE, where, "name offset", at, "the start of a string in NAMES");
  size_t n = 0;
  for (; file->names[at + n] != '\0'; ++n) {
    BST_CHECK(bst_is_name_char(file->names[at + n]), BAD_FILE, where, "character of the name",
              (unsigned char)file->names[at + n], "a letter, digit, `_` or `.`");
  }
  BST_CHECK(n >= 1 && n <= BST_MAX_NAME_BYTES, BAD_FILE, where, "length of the name", n,
            "in 1..255");
  return BST_OK;
}

enum { BST_NEVER = 0xFFFF, BST_OP_RESIDUAL_NEURON = 6, BST_OP_STREAM_ADD = 32 };

/// When each buffer is alive: from the step that writes it to the last that reads it, both
/// included, counted from 1; the image is written at 0.
typedef struct bst_lifetimes {
  uint16_t written[BST_MAX_RECORDS], last_use[BST_MAX_RECORDS];
} bst_lifetimes;

static bst_status bst_check_order(const bst_file* file, bst_lifetimes* lives) {
  for (uint32_t i = 0; i < file->n_buffers; ++i) lives->written[i] = BST_NEVER;
  lives->written[0] = lives->last_use[0] = 0;
  for (uint32_t s = 0; s < file->n_steps; ++s) {
    const bst_step* const step = &file->steps[s];
    const bst_where where = {"step", (int64_t)s, file->names + step->name};
    for (int i = 0; i < BST_MAX_INPUTS && step->inputs[i] != (uint32_t)BST_NONE; ++i) {
      BST_CHECK(lives->written[step->inputs[i]] != BST_NEVER, BAD_FILE, where, "input buffer",
                step->inputs[i], "written by an earlier step");
      lives->last_use[step->inputs[i]] = (uint16_t)(s + 1);
    }
    for (int i = 0; i < BST_MAX_OUTPUTS && step->outputs[i] != (uint32_t)BST_NONE; ++i) {
      BST_CHECK(lives->written[step->outputs[i]] == BST_NEVER, BAD_FILE, where, "output buffer",
                step->outputs[i], "written once");
      lives->written[step->outputs[i]] = lives->last_use[step->outputs[i]] = (uint16_t)(s + 1);
    }
  }
  for (uint32_t i = 0; i < file->n_buffers; ++i) {
    BST_CHECK(lives->written[i] != BST_NEVER, BAD_FILE, bst_at("buffer", i), "number of writers", 0,
              "1");
  }
  return BST_OK;
}

/// x2 of residual_neuron and of stream_add may take the place of y, which nothing reads any more:
/// the kernels read each y before they write the x2 of its place.
static bool bst_takes_place(const bst_file* file, const bst_lifetimes* lives, uint32_t from,
                            uint32_t to) {
  const bst_step* const step =
      lives->written[to] == 0 ? NULL : &file->steps[lives->written[to] - 1];
  const bool adds =
      step != NULL && (step->op == BST_OP_RESIDUAL_NEURON || step->op == BST_OP_STREAM_ADD);
  return adds && step->inputs[0] == from && step->outputs[0] == to && step->inputs[1] != from &&
         step->inputs[2] != from && lives->last_use[from] == lives->written[to] &&
         file->buffers[from].offset == file->buffers[to].offset;
}

static bst_status bst_check_arena(const bst_file* file, const bst_lifetimes* lives) {
  for (uint32_t a = 0; a < file->n_buffers; ++a) {
    for (uint32_t b = a + 1; b < file->n_buffers; ++b) {
      const bst_buffer *const one = &file->buffers[a], *const two = &file->buffers[b];
      const bool apart =
          one->offset + one->bytes <= two->offset || two->offset + two->bytes <= one->offset;
      const bool together =
          lives->written[a] <= lives->last_use[b] && lives->written[b] <= lives->last_use[a];
      const bool handed_on =
          bst_takes_place(file, lives, a, b) || bst_takes_place(file, lives, b, a);
      BST_CHECK(apart || !together || handed_on, BAD_FILE, bst_at("buffer", b), "offset",
                two->offset, "clear of buffers that are alive at the same time");
    }
  }
  return BST_OK;
}

static bst_status bst_check_steps(const bst_file* file) {
  bst_lifetimes lives;
  for (uint32_t i = 0; i < file->n_steps; ++i) {
    bst_call call;
    BST_TRY(bst_check_name(file, i));
    BST_TRY(bst_call_check(file, i, &call));
    const bool is_last = i + 1 == file->n_steps;
    BST_CHECK((call.outputs[0]->kind == BST_KIND_RAW) == is_last, BAD_FILE, call.where,
              "output kind", call.outputs[0]->kind, "4 (raw) for the last step alone");
  }
  BST_TRY(bst_check_order(file, &lives));
  return bst_check_arena(file, &lives);
}

// ---- The whole file -----------------------------------------------------------------------------

/// Check everything; on success `file` points into the bytes.
static bst_status bst_check_file(const void* bytes, size_t file_bytes, bst_file* file) {
  const bst_where where = {"file", -1, NULL};
  BST_CHECK(bytes != NULL, BAD_ARGUMENT, where, "address", 0, "not NULL");
  BST_CHECK((uintptr_t)bytes % 8 == 0, BAD_ARGUMENT, where, "address modulo 8",
            (uintptr_t)bytes % 8, "0");
  memset(file, 0, sizeof *file);
  file->bytes = bytes;
  file->n_bytes = file_bytes;
  BST_TRY(bst_check_header(bytes, file_bytes));
  BST_TRY(bst_find_sections(bytes, file_bytes, file));
  BST_TRY(bst_check_model(file->model));
  for (uint32_t i = 0; i < file->n_buffers; ++i) BST_TRY(bst_check_buffer(file, i));
  uint64_t end = 0;
  for (uint32_t i = 0; i < file->n_constants; ++i) BST_TRY(bst_check_constant(file, i, &end));
  BST_CHECK(end == file->data_bytes, BAD_FILE, bst_at("section kind", BST_SECTION_DATA), "bytes",
            file->data_bytes, "the end of the last constant");
  BST_TRY(bst_check_golden(file));
  return bst_check_steps(file);
}

/// End of the buffers that are alive at a step: what lies behind is free to use.
static uint64_t bst_alive_bytes(const bst_file* file, const bst_lifetimes* lives, uint32_t step) {
  uint64_t end = 0;
  for (uint32_t i = 0; i < file->n_buffers; ++i) {
    const bst_buffer* const b = &file->buffers[i];
    const bool alive = lives->written[i] <= step + 1 && lives->last_use[i] >= step + 1;
    if (alive && b->offset + b->bytes > end) end = b->offset + b->bytes;
  }
  return bst_align_up(end, BST_ALIGN);
}

/// Decide whether step `index` takes its followers along; `end` is the end of the steps that were
/// taken before. What no step behind them reads is not alive while they run: another buffer, or
/// their scratch, may lie in its place.
static void bst_take_followers(const bst_file* file, const bst_lifetimes* lives, uint32_t index,
                               uint32_t* end, bst_prepared* prepared) {
  const uint32_t last = index + prepared->n_followers;
  prepared->follows = index < *end;
  for (uint32_t i = index; i <= last; ++i) {
    const bool is_read = lives->last_use[file->steps[i].outputs[0]] > last + 1;
    if (prepared->follows || !is_read) prepared->n_followers = 0;
  }
  if (!prepared->follows) *end = index + prepared->n_followers + 1;
}

/// Lay out, and with a base fill, the model's buffer: struct, prepared list, layouts of `isa`.
/// @param run_bytes out: end of all buffers, and of one thread's scratch
static bst_status bst_prepare(const bst_file* file, const bst_isa* isa, bst_bump* bump,
                              uint64_t* run_bytes) {
  const bst_where where = {"model", -1, NULL};
  bst_model* const model = bst_take(bump, 1, sizeof(bst_model));
  bst_prepared* const list = bst_take(bump, file->n_steps, sizeof(bst_prepared));
  bst_lifetimes lives;
  uint64_t buffer_bytes = 0;
  uint32_t taken = 0;
  BST_TRY(bst_check_order(file, &lives));
  for (uint32_t i = 0; i < file->n_buffers; ++i) {
    const uint64_t end = file->buffers[i].offset + file->buffers[i].bytes;
    if (end > buffer_bytes) buffer_bytes = bst_align_up(end, BST_ALIGN);
  }
  *run_bytes = buffer_bytes;
  for (uint32_t i = 0; i < file->n_steps; ++i) {
    bst_call call;
    bst_prepared prepared = {.scratch_at = bst_alive_bytes(file, &lives, i)};
    bst_call_open(file, isa, i, &call);
    if (call.op->scratch_bytes != NULL) {
      const uint64_t bytes = call.op->scratch_bytes(&call, &bump->overflow);
      prepared.scratch_bytes = bst_align_up(bytes, BST_ALIGN);
    }
    const uint64_t run_end = prepared.scratch_at + prepared.scratch_bytes;
    if (run_end > *run_bytes) *run_bytes = run_end;
    if (call.op->prepare != NULL) call.op->prepare(&call, bump, &prepared);
    bst_take_followers(file, &lives, i, &taken, &prepared);
    if (list != NULL) list[i] = prepared;
  }
  BST_CHECK(!bump->overflow && bump->used <= PTRDIFF_MAX, UNSUPPORTED, where, "size in bytes",
            bump->used, "what this machine can address");
  if (model != NULL) {
    model->file = *file;
    model->isa = isa;
    model->prepared = list;
    model->buffer_bytes = buffer_bytes;
    model->model_bytes = bump->used;
  }
  return BST_OK;
}

/// The kernels asked for, or the best of this machine where none are.
static bst_status bst_choose_isa(const char* name, const bst_isa** isa) {
  *isa = bst_find_isa(name);
  return *isa != NULL ? BST_OK : bst_fail_isa(name);
}

bst_status bst_model_sizes(const void* file, size_t file_bytes, const char* isa,
                           size_t* model_bytes, uint64_t* run_bytes) {
  bst_file checked;
  const bst_isa* chosen;
  bst_bump bump = {NULL, 0, false};
  BST_TRY(bst_choose_isa(isa, &chosen));
  BST_TRY(bst_check_file(file, file_bytes, &checked));
  BST_TRY(bst_prepare(&checked, chosen, &bump, run_bytes));
  *model_bytes = (size_t)bump.used;
  return BST_OK;
}

bst_status bst_model_bytes(const void* file, size_t file_bytes, const char* isa,
                           size_t* model_bytes) {
  const bst_where where = {"bst_model_bytes", -1, NULL};
  uint64_t run_bytes;
  BST_CHECK(model_bytes != NULL, BAD_ARGUMENT, where, "model_bytes", 0, "not NULL");
  return bst_model_sizes(file, file_bytes, isa, model_bytes, &run_bytes);
}

bst_status bst_model_init(const void* file, size_t file_bytes, const char* isa, void* buffer,
                          size_t buffer_bytes, bst_model** model) {
  const bst_where where = {"bst_model_init", -1, NULL};
  bst_file checked;
  const bst_isa* chosen;
  bst_bump count = {NULL, 0, false};
  uint64_t run_bytes;
  BST_CHECK(model != NULL, BAD_ARGUMENT, where, "model", 0, "not NULL");
  BST_CHECK(buffer != NULL && (uintptr_t)buffer % BST_ALIGN == 0, BAD_ARGUMENT, where,
            "buffer address modulo 64", (uintptr_t)buffer % BST_ALIGN, "0, and not NULL");
  BST_TRY(bst_choose_isa(isa, &chosen));
  BST_TRY(bst_check_file(file, file_bytes, &checked));
  BST_TRY(bst_prepare(&checked, chosen, &count, &run_bytes));
  BST_CHECK(buffer_bytes >= count.used, NO_MEMORY, where, "buffer_bytes", buffer_bytes,
            "at least what bst_model_bytes tells");
  bst_bump fill = {buffer, 0, false};
  BST_TRY(bst_prepare(&checked, chosen, &fill, &run_bytes));
  bst_model* const made = buffer;
  *model = made;
  return BST_OK;
}

void bst_model_open_step(const bst_model* model, uint8_t* buffers, uint32_t index, int part,
                         int n_parts, bst_call* call, bst_io* io) {
  bst_call_open(&model->file, model->isa, index, call);
  *io = (bst_io){.part = part, .n_parts = n_parts};
  // Where the last of those that may run together has it: behind what all of them write.
  const bst_prepared* const p = &model->prepared[index + model->prepared[index].n_followers];
  io->scratch = buffers + p->scratch_at + (size_t)part * (size_t)p->scratch_bytes;
  for (int i = 0; i < call->op->n_inputs; ++i) io->inputs[i] = buffers + call->inputs[i]->offset;
  for (int i = 0; i < call->op->n_outputs; ++i) io->outputs[i] = buffers + call->outputs[i]->offset;
}

// ---- Questions about a model --------------------------------------------------------------------

const char* bst_model_isa(const bst_model* model) { return model == NULL ? "" : model->isa->name; }

bst_status bst_model_describe(const bst_model* model, bst_model_info* info) {
  const bst_where where = {"bst_model_describe", -1, NULL};
  BST_CHECK(model != NULL && info != NULL, BAD_ARGUMENT, where, "model or info", 0, "not NULL");
  const bst_model_record* const m = model->file.model;
  size_t arena_bytes = 0;
  BST_TRY(bst_arena_bytes(model, 1, &arena_bytes));
  *info = (bst_model_info){
      .height = m->height,
      .width = m->width,
      .channels = m->channels,
      .n_classes = m->n_classes,
      .n_steps = m->n_steps,
      .logit_shift = m->logit_shift,
      .n_golden = model->file.n_golden,
      .n_program_steps = model->file.n_steps,
      .arena_bytes = arena_bytes,
      .model_bytes = model->model_bytes,
      .frame_bytes = bst_frame_bytes(&model->file),
      .frac_bits = m->frac_bits,
      .frame_steps = model->file.buffers[0].t,
  };
  return BST_OK;
}

bst_status bst_model_step(const bst_model* model, uint32_t index, bst_step_info* info) {
  const bst_where where = {"bst_model_step", -1, NULL};
  BST_CHECK(model != NULL && info != NULL, BAD_ARGUMENT, where, "model or info", 0, "not NULL");
  BST_CHECK(index < model->file.n_steps, BAD_ARGUMENT, where, "index", index,
            "below n_program_steps");
  bst_call call;
  bst_call_open(&model->file, model->isa, index, &call);
  memset(info, 0, sizeof *info);
  info->name = call.where.name;
  info->op = call.op->code;
  info->op_name = call.op->name;
  info->n_outputs = call.op->n_outputs;
  for (int i = 0; i < call.op->n_outputs; ++i) {
    const bst_buffer* const b = call.outputs[i];
    info->outputs[i] = (bst_tensor_info){b->kind, b->t, b->h, b->w, b->c, 0, b->bytes};
  }
  return BST_OK;
}

bst_status bst_model_golden(const bst_model* model, uint32_t index, const uint8_t** frame,
                            const int64_t** raw) {
  const bst_where where = {"bst_model_golden", -1, NULL};
  BST_CHECK(model != NULL && frame != NULL && raw != NULL, BAD_ARGUMENT, where,
            "model, frame or raw", 0, "not NULL");
  BST_CHECK(index < model->file.n_golden, BAD_ARGUMENT, where, "index", index, "below n_golden");
  const uint8_t* const record = model->file.golden + index * bst_golden_bytes(&model->file);
  *frame = record;
  *raw = (const void*)(record + bst_align_up(bst_frame_bytes(&model->file), 8));
  return BST_OK;
}

float bst_logit(const bst_model* model, int64_t raw) {
  if (model == NULL) return 0.0F;
  const uint32_t shift = model->file.model->logit_shift;  // 0..62: 2^-shift is exact
  return (float)((double)raw / (double)(INT64_C(1) << shift));
}
