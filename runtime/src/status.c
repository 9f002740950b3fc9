// SPDX-License-Identifier: MIT
// Statuses and the last error. The sentence is put together by hand: no stdio in the library.

#include "internal.h"

#ifdef BST_NO_ERROR_TEXT

const char* bst_last_error(void) { return ""; }

bst_status bst_fail(bst_status status, bst_where where, const char* message, int64_t value,
                    const char* allowed) {
  (void)where, (void)message, (void)value, (void)allowed;
  return status;
}

bst_status bst_fail_text(bst_status status, bst_where where, const char* text) {
  (void)where, (void)text;
  return status;
}

bst_status bst_fail_isa(const char* name) {
  (void)name;
  return BST_UNSUPPORTED;
}

#else

enum { BST_ERROR_BYTES = 256 };

static _Thread_local char bst_error_text[BST_ERROR_BYTES];

const char* bst_last_error(void) { return bst_error_text; }

/// Append `text`, cut where the buffer ends; control characters and quotes of a hostile name become
/// '?'.
static size_t bst_append(size_t at, const char* text) {
  for (; *text != '\0' && at + 1 < BST_ERROR_BYTES; ++text, ++at) {
    const char c = *text;
    bst_error_text[at] = c >= ' ' && c <= '~' ? c : '?';
  }
  bst_error_text[at] = '\0';
  return at;
}

static size_t bst_append_number(size_t at, int64_t value) {
  char digits[24];
  size_t n = sizeof digits;
  uint64_t left = value < 0 ? UINT64_C(0) - (uint64_t)value : (uint64_t)value;
  digits[--n] = '\0';
  do {
    digits[--n] = (char)('0' + left % 10);
    left /= 10;
  } while (left != 0);
  if (value < 0) digits[--n] = '-';
  return bst_append(at, digits + n);
}

bst_status bst_fail(bst_status status, bst_where where, const char* message, int64_t value,
                    const char* allowed) {
  size_t at = bst_append(0, where.what);
  if (where.index >= 0) {
    at = bst_append(at, "[");
    at = bst_append_number(at, where.index);
    at = bst_append(at, "]");
  }
  if (where.name != NULL) {
    at = bst_append(at, " `");
    at = bst_append(at, where.name);
    at = bst_append(at, "`");
  }
  at = bst_append(at, ": ");
  at = bst_append(at, message);
  at = bst_append(at, " = ");
  at = bst_append_number(at, value);
  at = bst_append(at, ", must be ");
  (void)bst_append(at, allowed);
  return status;
}

bst_status bst_fail_text(bst_status status, bst_where where, const char* text) {
  size_t at = bst_append(0, where.what);
  at = bst_append(at, ": ");
  (void)bst_append(at, text);
  return status;
}

bst_status bst_fail_isa(const char* name) {
  size_t at = bst_append(0, "isa `");
  at = bst_append(at, name == NULL ? "" : name);
  at = bst_append(at, "` cannot be used on this machine, usable: ");
  for (uint32_t i = 0; bst_isa_name(i) != NULL; ++i) {
    if (i > 0) at = bst_append(at, ", ");
    at = bst_append(at, bst_isa_name(i));
  }
  return BST_UNSUPPORTED;
}

#endif  // BST_NO_ERROR_TEXT

const char* bst_status_name(bst_status status) {
  switch (status) {
#define BST_STATUS_CASE(name, number, text) \
  case BST_##name:                          \
    return #name;
    BST_STATUS_LIST(BST_STATUS_CASE)
#undef BST_STATUS_CASE
  }
  return "UNKNOWN";
}

const char* bst_version(void) { return BST_VERSION; }
