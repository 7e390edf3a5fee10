// Everything a vector ISA offers, built from its vocabulary. Included once per translation unit,
// after vec_*.h.
#include "abi.h"
namespace kt {
#include "unroll.inl"
#include "blocks.inl"
#include "rows.inl"
#include "gemm_bf16.inl"
#include "packed.inl"
#include "gemm_int.inl"
#include "pack.inl"
#include "pack_more.inl"
#include "turn.inl"
#include "limits.inl"
#include "checksum.inl"
#include "table.inl"
}
