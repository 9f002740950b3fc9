// SPDX-License-Identifier: MIT
// The part of ONNX Runtime's C ABI that this folder uses, declared here so that building the
// library needs no header of ONNX Runtime. Its function table only ever grows at the end, so a slot
// keeps its number; the assertions below state the numbers, tests/bestdeploy/test_onnxruntime.py
// compares them with the public header where that is installed. Oldest version with all of
// it: 1.17.

#ifndef BST_ORT_API_H_
#define BST_ORT_API_H_

#include <stddef.h>
#include <stdint.h>

enum { ORT_API_VERSION_USED = 17 };

typedef enum OrtErrorCode {
  ORT_OK = 0,
  ORT_FAIL = 1,
  ORT_INVALID_ARGUMENT = 2,
} OrtErrorCode;

typedef enum OrtElementType {
  ORT_ELEMENT_UINT8 = 2,
  ORT_ELEMENT_INT8 = 3,
  ORT_ELEMENT_INT16 = 5,
  ORT_ELEMENT_INT32 = 6,
  ORT_ELEMENT_INT64 = 7,
} OrtElementType;

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtTensorInfo OrtTensorInfo;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtCustomOp OrtCustomOp;
typedef void OrtUnused(void);

/// The function table; a function that returns OrtStatus* returns NULL for success.
typedef struct OrtApi {
  OrtStatus* (*CreateStatus)(OrtErrorCode code, const char* message);
  OrtUnused* slots_1[25];
  OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** out);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  OrtUnused* slots_29[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** out);
  OrtUnused* slots_52[9];
  OrtStatus* (*GetDimensionsCount)(const OrtTensorInfo* info, size_t* out);
  OrtStatus* (*GetDimensions)(const OrtTensorInfo* info, int64_t* dims, size_t n_dims);
  OrtUnused* slots_63[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorInfo** out);
  OrtUnused* slots_66[20];
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name,
                                             int64_t* out);
  OrtUnused* slots_87[3];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index,
                                       const OrtValue** out);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index,
                                        const int64_t* dims, size_t n_dims, OrtValue** out);
  OrtUnused* slots_92[1];
  void (*ReleaseStatus)(OrtStatus* status);
  OrtUnused* slots_94[5];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorInfo* info);
  OrtUnused* slots_100[1];
  void (*ReleaseCustomOpDomain)(OrtCustomOpDomain* domain);
  OrtUnused* slots_102[61];
  OrtStatus* (*KernelInfoGetAttributeArray_int64)(const OrtKernelInfo* info, const char* name,
                                                  int64_t* out, size_t* n);
  OrtUnused* slots_164[74];
  OrtStatus* (*GetSessionConfigEntry)(const OrtSessionOptions* options, const char* key,
                                      char* value, size_t* bytes);
  OrtUnused* slots_239[10];
  OrtStatus* (*KernelInfoGetConstantInput_tensor)(const OrtKernelInfo* info, size_t index,
                                                  int* is_constant, const OrtValue** out);
  OrtUnused* slots_250[24];
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context,
                                          void (*work)(void* user, size_t index), size_t total,
                                          size_t n_batches, void* user);
} OrtApi;

#define ORT_SLOT(name, number) \
  _Static_assert(offsetof(OrtApi, name) == (number) * sizeof(OrtUnused*), #name)
ORT_SLOT(CreateStatus, 0);
ORT_SLOT(CreateCustomOpDomain, 26);
ORT_SLOT(CustomOpDomain_Add, 27);
ORT_SLOT(AddCustomOpDomain, 28);
ORT_SLOT(GetTensorMutableData, 51);
ORT_SLOT(GetDimensionsCount, 61);
ORT_SLOT(GetDimensions, 62);
ORT_SLOT(GetTensorTypeAndShape, 65);
ORT_SLOT(KernelInfoGetAttribute_int64, 86);
ORT_SLOT(KernelContext_GetInput, 90);
ORT_SLOT(KernelContext_GetOutput, 91);
ORT_SLOT(ReleaseStatus, 93);
ORT_SLOT(ReleaseTensorTypeAndShapeInfo, 99);
ORT_SLOT(ReleaseCustomOpDomain, 101);
ORT_SLOT(KernelInfoGetAttributeArray_int64, 163);
ORT_SLOT(GetSessionConfigEntry, 238);
ORT_SLOT(KernelInfoGetConstantInput_tensor, 249);
ORT_SLOT(KernelContext_ParallelFor, 274);

typedef struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);  ///< NULL where this ONNX Runtime is older
  const char* (*GetVersionString)(void);
} OrtApiBase;

/// One custom op. `version` says which fields ONNX Runtime reads; the NULL ones are optional.
struct OrtCustomOp {
  uint32_t version;
  OrtUnused* CreateKernel;  ///< superseded by CreateKernelV2
  const char* (*GetName)(const OrtCustomOp* op);
  const char* (*GetExecutionProviderType)(const OrtCustomOp* op);  ///< returns NULL: CPU
  OrtElementType (*GetInputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp* op);
  OrtElementType (*GetOutputType)(const OrtCustomOp* op, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp* op);
  OrtUnused* KernelCompute;  ///< superseded by KernelComputeV2
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp* op, size_t index);   ///< 0: required
  int (*GetOutputCharacteristic)(const OrtCustomOp* op, size_t index);  ///< 0: required
  int (*GetInputMemoryType)(const OrtCustomOp* op, size_t index);       ///< 0: memory of the CPU
  OrtUnused* variadic[4];
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info,
                               void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext* context);
  OrtUnused* InferOutputShape;
  OrtUnused *GetStartVersion, *GetEndVersion;
  OrtUnused *GetMayInplace, *ReleaseMayInplace, *GetAliasMap, *ReleaseAliasMap;
};
_Static_assert(sizeof(void*) != 8 || sizeof(OrtCustomOp) == 208, "OrtCustomOp");
_Static_assert(sizeof(void*) != 8 || offsetof(OrtCustomOp, CreateKernelV2) == 136, "OrtCustomOp");

#endif  // BST_ORT_API_H_
