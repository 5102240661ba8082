/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What policies read and write, as they know it. */
#ifndef DECISION_H
#define DECISION_H

#include <stdint.h>

typedef uint8_t u8;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#include <bpf_oom/record.h>

#endif /* DECISION_H */
