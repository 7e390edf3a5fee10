// The vocabulary that a unit has chosen by including it first; AVX-512's for who reads a file by itself.
#pragma once
#ifndef KT_INLINE
#include "vec_avx512.h"
#endif
