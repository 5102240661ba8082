/* SPDX-License-Identifier: GPL-2.0-or-later */
/* All that depends on the architecture. */
#include <linux/linkage.h>
#include <linux/objtool.h>
#include <asm/asm.h>
#include <asm/frame.h>
#include <asm/ibt.h>
#include <asm/nospec-branch.h>
#include <asm/unwind_hints.h>

/*
 * unsigned long bpf_oom_call(a1, a2, a3, a4, a5, a6, target)
 *
 * Jumps to the target by returning to it, as a retpoline does: with IBT an indirect call must
 * meet an ENDBR, and functions of the kernel whose address nobody takes have none, or lose it
 * at boot. Returns are not tracked. The arguments pass through untouched.
 */
SYM_FUNC_START(bpf_oom_call)
	ANNOTATE_INTRA_FUNCTION_CALL
	call	.Lset
	int3
.Lset:
	mov	16(%rsp), %rax		/* the seventh argument */
	mov	%rax, (%rsp)
	UNWIND_HINT_FUNC
	RET
SYM_FUNC_END(bpf_oom_call)

/*
 * Where ftrace calls from the entry of a hooked function. On the stack: the return into the
 * function, then that to its caller. The hook says whether to go on with the function (0) or
 * to return to its caller at once, with 1 as the result.
 */
.macro HOOK_TRAMPOLINE name, hook
SYM_FUNC_START(\name)
	ENDBR
	pushq	%rbp
	movq	%rsp, %rbp
	pushq	%rdi
	pushq	%rsi
	pushq	%rdx
	pushq	%rcx
	CALL_DEPTH_ACCOUNT
	call	\hook
	popq	%rcx
	popq	%rdx
	popq	%rsi
	popq	%rdi
	popq	%rbp
	testl	%eax, %eax
	jnz	.Lskip_\name
	RET
.Lskip_\name:
	addq	$8, %rsp
	UNWIND_HINT_FUNC
	movl	$1, %eax
	RET
SYM_FUNC_END(\name)
.endm

HOOK_TRAMPOLINE bpf_oom_tramp_scan, bpf_oom_hook_scan
HOOK_TRAMPOLINE bpf_oom_tramp_evaluate, bpf_oom_hook_evaluate
