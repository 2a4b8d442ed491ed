/* Writes numbered records to two disks and says on the serial console which are durable.
 *
 * writer LOG_A BULK_A CHURN_A [LOG_B BULK_B CHURN_B]
 * Environment: SCREEN is a terminal for the reports, BUTTONS the prefix of input devices whose
 * power key ends the writing, AUTOSTART saves the `start`.
 *
 * First it reports what it finds and prints `ready`; it writes nothing before `start`.
 * Record n is synced on disk A before it is written to disk B, and n+1 follows only when n is
 * durable on both, so that at any instant A's highest record is B's or B's plus one.
 */
#include "layout.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/input.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NANO 1000000000LL
#define ACK_EVERY_NANO 10000000LL
#define MAX_BUTTONS 4

static volatile sig_atomic_t leaving;
static uint64_t said, rate = 100;
static int64_t due_nano, said_nano;

static int64_t now_nano(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NANO + time.tv_nsec;
}

/* --- commands ----------------------------------------------------------------------------- */

static uint64_t parse_size(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 10);
    int shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    return value << shift;
}

static void say_ack(void)
{
    if (said != acked)
        say(0, "ack %llu", (unsigned long long)acked);
    said = acked;
    said_nano = now_nano();
}

static void sync_all(void)
{
    sync();
    say_ack();
    say(0, "ok sync acked=%llu", (unsigned long long)acked);
}

static void obey(const char *line)
{
    char word[16] = "", argument[24] = "", letter = 'A';
    int words = sscanf(line, "%15s %23s %c", word, argument, &letter);
    if (words < 1)
        return;
    if (!strcmp(word, "start")) {
        start_writing();
        due_nano = now_nano();
    } else if (!strcmp(word, "stop")) {
        stop_writing();
        say_ack();
        say(0, "ok stop acked=%llu", (unsigned long long)acked);
    } else if (!strcmp(word, "rate") && words > 1) {
        rate = strcmp(argument, "max") ? strtoull(argument, NULL, 10) : NANO;
        due_nano = now_nano();
        say(0, "ok rate %llu", (unsigned long long)rate);
    } else if (!strcmp(word, "churn") && words > 1) {
        churn_every = strtoull(argument, NULL, 10);
        say(0, "ok churn %llu", (unsigned long long)churn_every);
    } else if (!strcmp(word, "ops") && words > 1 && writing) {
        start_operations(strtoull(argument, NULL, 10));
    } else if (!strcmp(word, "burst") && words > 1) {
        start_bulk(BULK_DATA, parse_size(argument), letter);
    } else if (!strcmp(word, "punch")) {
        start_bulk(BULK_HOLE, 0, words > 1 ? argument[0] : 'A');
    } else if (!strcmp(word, "report") && !writing) {
        report();
    } else if (!strcmp(word, "sync")) {
        sync_all();
    } else if (!strcmp(word, "poweroff")) {
        leaving = 1;
    } else {
        say(0, "error: cannot do now: %s", line);
    }
}

static int read_commands(void)
{
    static char line[128];
    static unsigned length;
    char bytes[64];
    ssize_t count = read(0, bytes, sizeof bytes);
    for (ssize_t i = 0; i < count; i++) {
        if (bytes[i] == '\n' || bytes[i] == '\r') {
            line[length] = 0;
            length = 0;
            obey(line);
        } else if (length < sizeof line - 1) {
            line[length++] = bytes[i];
        }
    }
    return count != 0;
}

static void read_button(int fd)
{
    struct input_event event;
    while (read(fd, &event, sizeof event) == (ssize_t)sizeof event)
        if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1)
            leaving = 1;
}

/* --- the loop ----------------------------------------------------------------------------- */

static int record_is_due(int64_t now)
{
    return record_is_wanted() || (writing && rate && now >= due_nano);
}

static int64_t wait_nano(int64_t now)
{
    int64_t wait = NANO;
    if (record_is_due(now) || bulk_is_under_way())
        return 0;
    if (writing && rate && due_nano - now < wait)
        wait = due_nano - now;
    if (said != acked && said_nano + ACK_EVERY_NANO - now < wait)
        wait = said_nano + ACK_EVERY_NANO - now;
    return wait > 0 ? wait : 0;
}

static void wait_and_read(struct pollfd *fds, int count)
{
    int64_t wait = wait_nano(now_nano());
    struct timespec timeout = {wait / NANO, wait % NANO};
    if (ppoll(fds, (nfds_t)count, &timeout, NULL) <= 0)
        return;
    if (fds[0].revents && !read_commands())
        fds[0].fd = -1; /* nobody can type any more; poll would return at once for ever */
    for (int i = 1; i < count; i++)
        if (fds[i].revents)
            read_button(fds[i].fd);
}

static void loop(struct pollfd *fds, int count)
{
    while (!leaving) {
        wait_and_read(fds, count);
        int64_t now = now_nano();
        if (record_is_due(now)) {
            write_next();
            due_nano += NANO / (int64_t)(rate ? rate : 1);
            if (due_nano < now - NANO) /* too slow for the rate: no catching up in one go */
                due_nano = now;
        }
        if (bulk_is_under_way())
            write_bulk();
        if (now_nano() >= said_nano + ACK_EVERY_NANO)
            say_ack();
    }
}

static void leave(int number)
{
    (void)number;
    leaving = 1;
}

int main(int argc, char **argv)
{
    struct pollfd fds[1 + MAX_BUTTONS] = {{.fd = 0, .events = POLLIN}};
    int count = 1;
    char path[64];
    signal(SIGTERM, leave);
    quiet_console();
    for (int i = 0; i < 2 && argc > 3 + 3 * i; i++)
        open_disk(i, argv + 1 + 3 * i);
    for (int i = 0; i < MAX_BUTTONS && getenv("BUTTONS"); i++) {
        snprintf(path, sizeof path, "%s%d", getenv("BUTTONS"), i);
        int fd = open(path, O_RDONLY | O_NONBLOCK);
        if (fd >= 0)
            fds[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
    }
    report();
    said = acked;
    say(1, "ready");
    if (getenv("AUTOSTART"))
        obey("start");
    loop(fds, count);
    say_ack();
    say(1, "bye %llu", (unsigned long long)acked);
    return 0;
}
