# Everything that enters the kernel. Offsets in braces are fields of `Cpu`, found through GS, or of `Registers`.

.section .text.entry, "ax", @progbits
# A virtual instruction. rcx = rip, r11 = rflags; IF, DF, TF, AC and NT are already clear (SFMASK).
# The registers go where they belong by pushing them from the end of `Registers`.
.balign 64
.global syscall_entry
syscall_entry:
    swapgs
    mov gs:[{scratch}], rsp
    mov rsp, gs:[{registers_end}]
    push r11
    push qword ptr gs:[{scratch}]
    push rcx
    push r15
    push r14
    push r13
    push r12
    push r11
    push r10
    push r9
    push r8
    push rbp
    push rdi
    push rsi
    push rdx
    push rcx
    push rbx
    push rax
    mov rsp, gs:[{kernel_stack}]
    mov eax, {syscall}
    ret

# Exceptions and interrupts: one stub for each vector, 16 bytes apart.
.balign 16
.global trap_stubs
trap_stubs:
.set vector, 0
.rept 256
    .balign 16
    .if (vector == 8) || (vector == 10) || (vector == 11) || (vector == 12) || (vector == 13) || (vector == 14) || (vector == 17) || (vector == 21) || (vector == 29) || (vector == 30)
    .else
    push 0
    .endif
    push vector
    jmp trap_common
    .set vector, vector + 1
.endr

# rsp: vector, error code, rip, cs, rflags, rsp, ss.
.balign 16
trap_common:
    push rax
    test byte ptr [rsp + 32], 3
    jz trap_in_kernel
    swapgs
    mov rax, gs:[{registers_end}]
    sub rax, {registers_size}
    mov [rax + 0x08], rbx
    mov [rax + 0x10], rcx
    mov [rax + 0x18], rdx
    mov [rax + 0x20], rsi
    mov [rax + 0x28], rdi
    mov [rax + 0x30], rbp
    mov [rax + 0x38], r8
    mov [rax + 0x40], r9
    mov [rax + 0x48], r10
    mov [rax + 0x50], r11
    mov [rax + 0x58], r12
    mov [rax + 0x60], r13
    mov [rax + 0x68], r14
    mov [rax + 0x70], r15
    pop qword ptr [rax]
    pop rsi                         # vector
    pop rdx                         # error code
    pop qword ptr [rax + 0x78]      # rip
    pop rcx                         # cs
    pop qword ptr [rax + 0x88]      # rflags
    pop qword ptr [rax + 0x80]      # rsp
    mov rsp, gs:[{kernel_stack}]
    # The guest's AC would let the kernel touch user pages, its DF would turn string instructions around.
    push 2
    popfq
    mov eax, esi
    ret

trap_in_kernel:
    cmp dword ptr [rsp + 8], 32
    jb trap_fatal
    # Only while halted: note which, and return with interrupts off. Whoever halted sees to the rest.
    mov rax, [rsp + 8]
    mov gs:[{pending}], rax
    pop rax
    add rsp, 16
    and dword ptr [rsp + 16], ~0x200
    iretq

# An exception in the kernel. GS may still be the guest's if it came between entry and `swapgs`: the sign of the
# base tells.
trap_fatal:
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov ecx, 0xc0000101
    rdmsr
    test edx, edx
    js 1f
    swapgs
1:  push 2
    popfq
    mov rdi, rsp
    xor ebp, ebp
    and rsp, -16
    call firn_fatal_trap
    ud2

# A non-maskable interrupt, on its own stack: counted, and back to whatever it was. When the machine is ending it is
# the way to stop a processor, wherever it is.
.balign 16
.global nmi_entry
nmi_entry:
    cmp dword ptr [rip + {is_ending}], 0
    jne 3f
    push rax
    push rcx
    push rdx
    mov ecx, 0xc0000101
    rdmsr
    test edx, edx
    js 1f
    swapgs
    inc qword ptr gs:[{nmis}]
    swapgs
    jmp 2f
1:  inc qword ptr gs:[{nmis}]
2:  pop rdx
    pop rcx
    pop rax
    iretq
3:  lock inc dword ptr [rip + {nr_stopped}]
4:  cli
    hlt
    jmp 4b
.text
