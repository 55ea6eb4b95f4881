# From an INIT-SIPI-SIPI to `firn_start_cpu`: copied to a page below 1 MiB, entered in real mode with cs = page / 16.
# It goes through the boot path's tables, which have that page at its own address, to the kernel's.

.section .rodata
.balign 16
.global trampoline_start
trampoline_start:
.code16
    cli
    cld
    mov ax, cs
    mov ds, ax
    xor ebx, ebx
    mov bx, ax
    shl ebx, 4                      # the page
    .byte 0x66, 0x0f, 0x01, 0x16    # lgdt [gdt pointer]
    .word trampoline_gdt_pointer - trampoline_start
    mov eax, cr0
    or al, 1
    mov cr0, eax
    .byte 0x66, 0xff, 0x2e          # far jump through memory: 32-bit offset, selector
    .word trampoline_jump - trampoline_start

.code32
trampoline_protected:
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov eax, 0x20                   # PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080             # EFER: LME, NXE
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, 0x80010031             # PG, WP, NE, ET, PE; caches on
    mov cr0, eax
    lea eax, [ebx + 0x118]
    .byte 0xff, 0x28                # far jump through [eax]

.code64
trampoline_long:
    # Whoever comes late, when its place is given to another, finds no ticket.
    xor eax, eax
    xchg rax, [rbx + 0x100]
    test rax, rax
    jz 1f
    mov rsp, [rbx + 0x108]
    mov rcx, [rbx + 0x110]
    mov rdi, rax
    xor ebp, ebp
    movabs rax, offset trampoline_high
    jmp rax
1:  hlt
    jmp 1b

.balign 8
trampoline_gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 64-bit code
    .quad 0x00cf93000000ffff        # data
    .quad 0x00cf9b000000ffff        # 32-bit code
trampoline_gdt_pointer:
    .word 31
.global trampoline_gdt_base
trampoline_gdt_base:
    .long trampoline_gdt - trampoline_start
.global trampoline_jump
trampoline_jump:
    .long trampoline_protected - trampoline_start
    .word 0x18
# What the code finds by numbers, 0x100 from the start.
.org trampoline_start + 0x100
.global trampoline_ticket
trampoline_ticket:
    .quad 0
.global trampoline_stack
trampoline_stack:
    .quad 0
.global trampoline_root
trampoline_root:
    .quad 0
.global trampoline_jump_long
trampoline_jump_long:
    .long trampoline_long - trampoline_start
    .word 0x08
.global trampoline_end
trampoline_end:

# In the kernel itself, so that the page's own address is needed no more.
.section .text
trampoline_high:
    mov cr3, rcx
    xor eax, eax
    mov fs, eax
    mov gs, eax
    call firn_start_cpu
    ud2
.text
