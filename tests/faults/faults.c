/* Faults at the system calls of this very process that change files under one folder: a kill at the n-th, or a disk that is full.

A seccomp filter has the kernel stop every such call with SIGSYS, of whatever library and thread (Rust's, for one, do not go through the
C library); the handler counts it, lets it through by the one `syscall` instruction that the filter excepts, refuses it, or kills. A
process that was armed cannot be disarmed. Linux on x86-64. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

enum { COUNT, KILL, KILL_HALFWAY, FULL };   /* halfway: after half of what the n-th call writes; full: after n bytes */

long direct(long number, long a, long b, long c, long d, long e, long f);
extern char after_direct[];
__asm__(".text\n.globl direct\n.type direct,@function\ndirect:\n"
        "mov %rdi,%rax; mov %rsi,%rdi; mov %rdx,%rsi; mov %rcx,%rdx; mov %r8,%r10; mov %r9,%r8; mov 8(%rsp),%r9\n"
        "syscall\n.globl after_direct\nafter_direct: ret\n");

static char folder[4096];
static int mode, log_file;
static long nth;
static atomic_long count;

static int under(const char *path) {
    size_t n = strlen(folder);
    return !strncmp(path, folder, n) && (path[n] == 0 || path[n] == '/');
}

static void path_of(int descriptor, char *path) {
    char link[64];
    snprintf(link, sizeof link, descriptor == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", descriptor);
    ssize_t n = readlink(link, path, 4095);
    path[n < 0 ? 0 : n] = 0;
}

static void path_at(int descriptor, const char *name, char *path) {
    if (name[0] == '/') { snprintf(path, 4096, "%s", name); return; }
    path_of(descriptor, path);
    size_t n = strlen(path);
    snprintf(path + n, 4096 - n, "/%s", name);
}

/* What a call does: its name, the path that it changes, and the bytes that it writes; a name of 0 where it changes nothing. */
struct change { const char *name; char path[4096]; char second[4096]; long bytes; int grows; };

static void look(long number, const long *a, struct change *c) {
    c->name = 0; c->bytes = 0; c->grows = 0; c->path[0] = c->second[0] = 0;
    long flags = 0;
    switch (number) {
    case SYS_open: flags = a[1]; path_at(AT_FDCWD, (char *)a[0], c->path); c->name = "open"; break;
    case SYS_openat: flags = a[2]; path_at(a[0], (char *)a[1], c->path); c->name = "open"; break;
    case SYS_openat2: flags = *(uint64_t *)a[2]; path_at(a[0], (char *)a[1], c->path); c->name = "open"; break;
    case SYS_creat: flags = O_CREAT; path_at(AT_FDCWD, (char *)a[0], c->path); c->name = "open"; break;
    case SYS_write: case SYS_pwrite64: path_of(a[0], c->path); c->name = "write"; c->bytes = a[2]; break;
    case SYS_writev: case SYS_pwritev: case SYS_pwritev2: path_of(a[0], c->path); c->name = "writev"; break;
    case SYS_sendfile: path_of(a[0], c->path); c->name = "sendfile"; break;
    case SYS_copy_file_range: path_of(a[2], c->path); c->name = "copy_file_range"; break;
    case SYS_ftruncate: path_of(a[0], c->path); c->name = "truncate"; break;
    case SYS_truncate: path_at(AT_FDCWD, (char *)a[0], c->path); c->name = "truncate"; break;
    case SYS_fallocate: path_of(a[0], c->path); c->name = "fallocate"; c->grows = 1; break;
    case SYS_mkdir: path_at(AT_FDCWD, (char *)a[0], c->path); c->name = "mkdir"; c->grows = 1; break;
    case SYS_mkdirat: path_at(a[0], (char *)a[1], c->path); c->name = "mkdir"; c->grows = 1; break;
    case SYS_rmdir: path_at(AT_FDCWD, (char *)a[0], c->path); c->name = "unlink"; break;
    case SYS_unlink: path_at(AT_FDCWD, (char *)a[0], c->path); c->name = "unlink"; break;
    case SYS_unlinkat: path_at(a[0], (char *)a[1], c->path); c->name = "unlink"; break;
    case SYS_rename: path_at(AT_FDCWD, (char *)a[0], c->path); path_at(AT_FDCWD, (char *)a[1], c->second); c->name = "rename"; break;
    case SYS_renameat: case SYS_renameat2:
        path_at(a[0], (char *)a[1], c->path); path_at(a[2], (char *)a[3], c->second); c->name = "rename"; break;
    case SYS_link: path_at(AT_FDCWD, (char *)a[0], c->path); path_at(AT_FDCWD, (char *)a[1], c->second); c->name = "link"; c->grows = 1; break;
    case SYS_linkat: path_at(a[0], (char *)a[1], c->path); path_at(a[2], (char *)a[3], c->second); c->name = "link"; c->grows = 1; break;
    case SYS_symlink: path_at(AT_FDCWD, (char *)a[1], c->path); c->name = "symlink"; c->grows = 1; break;
    case SYS_symlinkat: path_at(a[1], (char *)a[2], c->path); c->name = "symlink"; c->grows = 1; break;
    case SYS_fsync: case SYS_fdatasync: path_of(a[0], c->path); c->name = "fsync"; break;
    }
    if (c->name && !strcmp(c->name, "open")) {
        if (flags & O_CREAT) c->grows = 1;
        else if (!(flags & O_TRUNC)) c->name = 0;
    }
    if (c->name && !under(c->path) && !under(c->second)) c->name = 0;
}

static void note(const struct change *c) {
    char line[8400];
    int n = snprintf(line, sizeof line, "%s\t%s\t%s\n", c->name, c->path, c->second);
    if (log_file >= 0) direct(SYS_write, log_file, (long)line, n, 0, 0, 0);
}

static void die(void) { direct(SYS_kill, getpid(), SIGKILL, 0, 0, 0, 0); for (;;) pause(); }

static void on_call(int signal, siginfo_t *info, void *context) {
    (void)signal;
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    long number = info->si_syscall;
    long a[6] = {registers[REG_RDI], registers[REG_RSI], registers[REG_RDX], registers[REG_R10], registers[REG_R8], registers[REG_R9]};
    int kept = errno;
    struct change c;
    look(number, a, &c);
    if (c.name) {
        int syncs = !strcmp(c.name, "fsync");
        if (mode == FULL) {
            long before = atomic_fetch_add(&count, c.bytes), room = nth - before;
            if (c.bytes > room && room > 0) a[2] = room;   /* a short write */
            else if ((c.bytes || c.grows) && room <= 0) { registers[REG_RAX] = -ENOSPC; errno = kept; return; }
        } else if (!syncs) {
            long here = atomic_fetch_add(&count, 1);
            if (here == nth && mode == KILL_HALFWAY && c.bytes > 1) {
                a[2] = c.bytes / 2;
                direct(number, a[0], a[1], a[2], a[3], a[4], a[5]);
            }
            if (here == nth && mode != COUNT) die();
        }
        note(&c);
    }
    registers[REG_RAX] = direct(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    errno = kept;
}

/* Have it happen from now on; 0, or an errno. `log`: a file that each call is written to, or -1. */
int arm(const char *where, int what, long n, int log) {
    static const int calls[] = {
        SYS_open, SYS_openat, SYS_openat2, SYS_creat, SYS_write, SYS_pwrite64, SYS_writev, SYS_pwritev, SYS_pwritev2, SYS_sendfile,
        SYS_copy_file_range, SYS_ftruncate, SYS_truncate, SYS_fallocate, SYS_mkdir, SYS_mkdirat, SYS_rmdir, SYS_unlink, SYS_unlinkat,
        SYS_rename, SYS_renameat, SYS_renameat2, SYS_link, SYS_linkat, SYS_symlink, SYS_symlinkat, SYS_fsync, SYS_fdatasync };
    enum { CALLS = sizeof calls / sizeof *calls };
    snprintf(folder, sizeof folder, "%s", where);
    mode = what; nth = n; log_file = log;
    uint64_t allowed = (uint64_t)after_direct;
    struct sock_filter code[CALLS + 8];
    int i = 0;
    code[i++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer));
    code[i++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)allowed, 0, 3);
    code[i++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, instruction_pointer) + 4);
    code[i++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)(allowed >> 32), 0, 1);
    code[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[i++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int j = 0; j < CALLS; j++)
        code[i++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, calls[j], CALLS - j, 0);
    code[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    code[i++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
    struct sigaction action = {.sa_sigaction = on_call, .sa_flags = SA_SIGINFO | SA_RESTART};
    if (sigaction(SIGSYS, &action, 0)) return errno;
    struct sock_fprog program = {i, code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)) return errno;
    if (syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program)) return errno;
    return 0;
}

long counted(void) { return atomic_load(&count); }
