/* The load generator: one thread, epoll, loopback only.
 *
 * It knows TCP, HTTP as far as the end of a response, and WebSocket frames. What is said on
 * a connection is the plan's business, which plan.py writes: how a connection is opened, what a
 * request looks like, and what the answer to it must be, byte for byte. One wrong, doubled,
 * misplaced or missing answer ends the run with {"failed": ...} and exit status 1.
 *
 * stdin: the plan, then commands, one a line. stdout: one JSON object a line.
 *
 *   open    opens the connections          {"opened": ...} when all are open
 *   ask     one request, learned from      {"reply": its bytes in hex}
 *   begin   starts the load: each channel keeps its window full
 *   rate N  as begin, but N requests a second in all, whatever the answers do
 *   mark    ends a phase                   {"phase": what happened in it}
 *   back N  waits for connections          {"back": N} when N that were lost are open again
 *   stop    sends no more                  {"done": ...} when all answers are there
 *
 * Requests travel in channels. A channel has one connection that sends, and one or more that
 * receive each of its messages; an echo is a channel of a connection with itself. Messages of a
 * channel are numbered, and each receiver must see each number once, in order. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { ID_LENGTH = 12, INDEX_LENGTH = 5, SLOTS = 4, MAX_STEPS = 12, MAX_IDS = 4 };
enum { READ_SIZE = 1 << 18, EVENTS = 512, BUCKETS = 2048, TICKS = 8192, MAX_PIDS = 32 };
enum { PER_ADDRESS = 20000, SEQUENCE = 10000000, FIRST_CHANNEL = 10000 };
static const uint64_t SECOND = 1000000000ull, TICK = 20000000ull, AGAIN = 100000000ull;

typedef enum { LITERAL, ID, INDEX, SLOT, PARTNER_INDEX, PARTNER_SLOT, CHANNEL } Kind;
typedef enum { WHOLE, RECORD_SEPARATOR, VARINT } Split;
typedef enum { HTTP, UPGRADE, MESSAGE } StepKind;
typedef enum { IDLE, CONNECTING, OPENING, OPEN, WAITING } State;

typedef struct { char *data; size_t length, capacity; } Bytes;
typedef struct { Kind kind; int slot; Bytes text; } Piece;
typedef struct { int count; Piece *pieces; } Template;
/* A template with everything filled in but the ids. */
typedef struct { Bytes text; int ids[MAX_IDS]; int count; } Message;
typedef struct { int slot; Bytes before, after; } Capture;
typedef struct {
    StepKind kind;
    int fresh, port, port_again, exact, captures;
    Template request, expected;
    Capture capture[SLOTS];
} Step;
typedef struct { uint64_t sent; int left; } Flight;
typedef struct {
    int publisher, partner, receivers;
    Message *request, *reply;
    uint32_t sent, done;
    uint64_t last, gap;
    Flight *flights;
} Channel;
typedef struct {
    int fd, generation, index, step, receives, publishes;
    int wants_write, dirty, upgraded, fragmented, came_back;
    State state;
    uint32_t next;
    uint64_t began, not_before;
    Bytes rest, message, out, slot[SLOTS];
} Connection;
typedef struct { uint64_t bucket[BUCKETS], count, sum, max; } Histogram;

static struct {
    int connections, opening, window, opcode, reconnect, patience, pids, pid[MAX_PIDS], steps, channels;
    Split split;
    Bytes ping, pong, noop, goodbye, refusal;
    Step step[MAX_STEPS];
    Template request, reply;
} plan;
static struct {
    uint64_t began, deliveries, completed, skipped;
    double cpu, server_cpu[MAX_PIDS];
    Histogram latency;
    uint32_t ticks[TICKS];
} phase;
static struct { uint64_t disconnects, reopened, lost, first, last; Histogram away; } loss;
static Connection *connections, **dirty;
static Channel *channels;
static Histogram opening_times;
static int epoll, timer, dirty_count, opened, in_flight, next_to_open, sending, stopping, told_open;
static int *queue, queue_head, queue_length;
static uint64_t open_began, wanted_back, total, pace, next_send, stop_began;
static uint32_t pace_channel, random_state = 2463534242u;

/* -- small things ------------------------------------------------------------------------- */

static uint64_t now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * SECOND + (uint64_t)at.tv_nsec;
}

static void print_text(const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32 || c > 126) printf("\\\\x%02x", c);
        else putchar(c);
    }
}

static void fail(const Bytes *got, const char *format, ...)
{
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    printf("{\"failed\":\"");
    print_text(text, (size_t)length < sizeof text ? (size_t)length : sizeof text - 1);
    if (got) {
        printf("; got ");
        print_text(got->data, got->length < 400 ? got->length : 400);
    }
    printf("\"}\n");
    fflush(stdout);
    _exit(1);
}

static void *must(void *memory)
{
    if (!memory) fail(NULL, "out of memory");
    return memory;
}

static void append(Bytes *to, const char *data, size_t length)
{
    if (to->length + length > to->capacity) {
        to->capacity = (to->length + length) * 2;
        to->data = must(realloc(to->data, to->capacity));
    }
    if (length) memcpy(to->data + to->length, data, length);
    to->length += length;
}

static void release(Bytes *bytes)
{
    free(bytes->data);
    *bytes = (Bytes){0};
}

static int equal(const Bytes *one, const char *data, size_t length)
{
    return one->length == length && !memcmp(one->data, data, length);
}

static int starts_with(const char *data, size_t length, const Bytes *prefix)
{
    return prefix->length && length >= prefix->length && !memcmp(data, prefix->data, prefix->length);
}

/* 32 buckets an octave: 3 % at most from the truth. */
static int bucket_of(uint64_t value)
{
    if (value < 64) return (int)value;
    int shift = 58 - __builtin_clzll(value);
    int bucket = shift * 32 + (int)(value >> shift);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static void record(Histogram *histogram, uint64_t value)
{
    histogram->bucket[bucket_of(value)]++;
    histogram->count++;
    histogram->sum += value;
    if (value > histogram->max) histogram->max = value;
}

static double percentile(const Histogram *histogram, double share)
{
    uint64_t wanted = (uint64_t)(share * (double)histogram->count), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen > wanted) {
            if (i < 64) return i / 1e6;
            int shift = i / 32 - 1;
            double value = (double)((uint64_t)(i - shift * 32) << shift);
            return (value > (double)histogram->max ? (double)histogram->max : value) / 1e6;
        }
    }
    return (double)histogram->max / 1e6;
}

/* In milliseconds. */
static void print_histogram(const char *name, const Histogram *h)
{
    printf("\"%s\":{\"count\":%llu,\"mean\":%.6f,\"p50\":%.6f,\"p99\":%.6f,\"max\":%.6f}", name,
           (unsigned long long)h->count, h->count ? (double)h->sum / (double)h->count / 1e6 : 0,
           percentile(h, .5), percentile(h, .99), (double)h->max / 1e6);
}

static double seconds_of(clockid_t clock)
{
    struct timespec at;
    if (clock_gettime(clock, &at)) return -1; /* the process has ended */
    return (double)at.tv_sec + (double)at.tv_nsec / 1e9;
}

static double cpu_of(int pid)
{
    clockid_t clock;
    return clock_getcpuclockid(pid, &clock) ? -1 : seconds_of(clock);
}

/* -- the plan ------------------------------------------------------------------------------- */

static void read_exactly(char *to, size_t length)
{
    while (length) {
        ssize_t count = read(0, to, length);
        if (count <= 0) fail(NULL, "the plan is cut short");
        to += count;
        length -= (size_t)count;
    }
}

static int read_number(void)
{
    int32_t number;
    read_exactly((char *)&number, sizeof number);
    return number;
}

static Bytes read_bytes(void)
{
    Bytes bytes = {0};
    bytes.length = bytes.capacity = (size_t)read_number();
    bytes.data = must(malloc(bytes.length + 1));
    read_exactly(bytes.data, bytes.length);
    return bytes;
}

static Template read_template(void)
{
    Template made = {.count = read_number()};
    made.pieces = must(calloc((size_t)made.count + 1, sizeof(Piece)));
    for (int i = 0; i < made.count; i++) {
        made.pieces[i].kind = (Kind)read_number();
        made.pieces[i].slot = read_number();
        made.pieces[i].text = read_bytes();
    }
    return made;
}

static void read_step(Step *step)
{
    step->kind = (StepKind)read_number();
    step->fresh = read_number();
    step->port = read_number();
    step->port_again = read_number();
    step->request = read_template();
    step->exact = read_number();
    step->expected = read_template();
    step->captures = read_number();
    for (int i = 0; i < step->captures; i++) {
        step->capture[i].slot = read_number();
        step->capture[i].before = read_bytes();
        step->capture[i].after = read_bytes();
    }
}

static void read_channels(void)
{
    plan.channels = read_number();
    channels = must(calloc((size_t)plan.channels + 1, sizeof(Channel)));
    for (int i = 0; i < plan.connections; i++) {
        Connection *c = &connections[i];
        *c = (Connection){.fd = -1, .index = i, .publishes = -1, .receives = read_number()};
        if (c->receives >= 0) channels[c->receives].receivers++;
    }
    for (int i = 0; i < plan.channels; i++) {
        channels[i].publisher = read_number();
        channels[i].partner = read_number();
        connections[channels[i].publisher].publishes = i;
        channels[i].flights = must(calloc((size_t)plan.window, sizeof(Flight)));
    }
}

static void read_plan(void)
{
    plan.connections = read_number();
    plan.opening = read_number();
    plan.window = read_number();
    plan.split = (Split)read_number();
    plan.opcode = read_number();
    plan.reconnect = read_number();
    plan.patience = read_number();
    plan.pids = read_number();
    for (int i = 0; i < plan.pids; i++) plan.pid[i] = read_number();
    plan.ping = read_bytes();
    plan.pong = read_bytes();
    plan.noop = read_bytes();
    plan.goodbye = read_bytes();
    plan.refusal = read_bytes();
    plan.steps = read_number();
    if (plan.steps > MAX_STEPS || plan.pids > MAX_PIDS) fail(NULL, "the plan is too large");
    for (int i = 0; i < plan.steps; i++) read_step(&plan.step[i]);
    connections = must(calloc((size_t)plan.connections, sizeof(Connection)));
    dirty = must(calloc((size_t)plan.connections, sizeof(Connection *)));
    queue = must(calloc((size_t)plan.connections, sizeof(int)));
    read_channels();
    plan.request = read_template();
    plan.reply = read_template();
}

/* Fills a template for a connection (and a channel); ids are left open, their places noted. */
static Message fill(const Template *template, const Connection *c, int channel, int partner)
{
    Message made = {0};
    for (int i = 0; i < template->count; i++) {
        const Piece *piece = &template->pieces[i];
        const Bytes *text = &piece->text;
        char digits[16];
        int number = -1;
        if (piece->kind == INDEX) number = c->index;
        if (piece->kind == PARTNER_INDEX) number = partner;
        if (piece->kind == CHANNEL) number = channel;
        if (piece->kind == SLOT) text = &c->slot[piece->slot];
        if (piece->kind == PARTNER_SLOT) text = &connections[partner].slot[piece->slot];
        if (piece->kind == ID) {
            if (made.count == MAX_IDS) fail(NULL, "too many ids in a template");
            made.ids[made.count++] = (int)made.text.length;
            append(&made.text, "000000000000", ID_LENGTH);
        } else if (number >= 0) {
            snprintf(digits, sizeof digits, "%0*d", INDEX_LENGTH, number);
            append(&made.text, digits, INDEX_LENGTH);
        } else {
            append(&made.text, text->data, text->length);
        }
    }
    return made;
}

static int is_individual(const Template *template)
{
    for (int i = 0; i < template->count; i++)
        if (template->pieces[i].kind > ID) return 1;
    return 0;
}

static Message *filled(const Template *template, int channel, Message *shared)
{
    if (!template->count) return NULL;
    if (shared && !is_individual(template)) return shared;
    Message *made = must(malloc(sizeof *made));
    Channel *ch = &channels[channel];
    *made = fill(template, &connections[ch->publisher], channel, ch->partner);
    return made;
}

static void fill_channels(void)
{
    for (int i = 0; i < plan.channels; i++) {
        Channel *first = &channels[0], *ch = &channels[i];
        if (ch->request) continue;
        ch->request = filled(&plan.request, i, i ? first->request : NULL);
        ch->reply = filled(&plan.reply, i, i ? first->reply : NULL);
    }
}

static void write_id(char *to, int channel, uint32_t number)
{
    char digits[32];
    snprintf(digits, sizeof digits, "%05d%07u", FIRST_CHANNEL + channel, number % SEQUENCE);
    memcpy(to, digits, ID_LENGTH);
}

static int matches(const Message *wanted, const char *data, size_t length, const char *id)
{
    if (length != wanted->text.length) return 0;
    size_t at = 0;
    for (int i = 0; i < wanted->count; i++) {
        size_t place = (size_t)wanted->ids[i];
        if (memcmp(data + at, wanted->text.data + at, place - at)) return 0;
        if (memcmp(data + place, id, ID_LENGTH)) return 0;
        at = place + ID_LENGTH;
    }
    return !memcmp(data + at, wanted->text.data + at, length - at);
}

/* -- sending -------------------------------------------------------------------------------- */

static void watch(Connection *c, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll, operation, c->fd, &event)) fail(NULL, "epoll_ctl: %s", strerror(errno));
}

static void mark_dirty(Connection *c)
{
    if (!c->dirty) dirty[dirty_count++] = c;
    c->dirty = 1;
}

/* Masked with a key that is not zero: some servers skip the unmasking for a zero key. */
static void put_frame(Connection *c, int opcode, const char *data, size_t length, const int *ids,
                      int count, const char *id)
{
    unsigned char head[14] = {(unsigned char)(0x80 | opcode)};
    size_t size = 2;
    if (length < 126) {
        head[1] = (unsigned char)(0x80 | length);
    } else if (length < 65536) {
        head[1] = 0x80 | 126;
        head[2] = (unsigned char)(length >> 8), head[3] = (unsigned char)length;
        size = 4;
    } else {
        head[1] = 0x80 | 127;
        for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)length >> (56 - 8 * i));
        size = 10;
    }
    random_state ^= random_state << 13, random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    memcpy(head + size, &random_state, 4);
    append(&c->out, (char *)head, size + 4);
    append(&c->out, data, length);
    char *payload = c->out.data + c->out.length - length;
    for (int i = 0; i < count; i++) memcpy(payload + ids[i], id, ID_LENGTH);
    uint64_t key = (uint64_t)random_state << 32 | random_state, part;
    size_t at = 0;
    for (; at + 8 <= length; at += 8) {
        memcpy(&part, payload + at, 8);
        part ^= key;
        memcpy(payload + at, &part, 8);
    }
    for (; at < length; at++) payload[at] ^= (char)(key >> (8 * (at & 3)));
    mark_dirty(c);
}

static void request(int channel, uint64_t at)
{
    Channel *ch = &channels[channel];
    char id[ID_LENGTH];
    write_id(id, channel, ch->sent);
    ch->flights[ch->sent % (uint32_t)plan.window] = (Flight){at, ch->receivers};
    ch->sent++;
    const Message *m = ch->request;
    put_frame(&connections[ch->publisher], plan.opcode, m->text.data, m->text.length, m->ids,
              m->count, id);
}

static void fill_window(int channel, uint64_t at)
{
    Channel *ch = &channels[channel];
    if (!sending || pace || connections[ch->publisher].state != OPEN) return;
    while (ch->sent - ch->done < (uint32_t)plan.window) request(channel, at);
}

/* Requests that are due. Their time counts from then, whenever they really leave. */
static void keep_pace(uint64_t at)
{
    while (sending && pace && next_send <= at) {
        int channel = (int)(pace_channel++ % (uint32_t)plan.channels);
        Channel *ch = &channels[channel];
        int room = ch->sent - ch->done < (uint32_t)plan.window;
        if (room && connections[ch->publisher].state == OPEN) request(channel, next_send);
        else phase.skipped++;
        next_send += pace;
    }
}

static void lose(Connection *c, const char *why);

static void flush(Connection *c)
{
    size_t at = 0;
    while (at < c->out.length) {
        ssize_t count = send(c->fd, c->out.data + at, c->out.length - at, MSG_NOSIGNAL);
        if (count < 0 && errno == EAGAIN) break;
        if (count < 0) {
            lose(c, strerror(errno));
            return;
        }
        at += (size_t)count;
    }
    c->out.length -= at;
    if (c->out.length) memmove(c->out.data, c->out.data + at, c->out.length);
    int wants_write = c->out.length > 0;
    if (wants_write != c->wants_write)
        watch(c, EPOLL_CTL_MOD, EPOLLIN | (wants_write ? EPOLLOUT : 0));
    c->wants_write = wants_write;
}

static void flush_all(void)
{
    for (int i = 0; i < dirty_count; i++) {
        dirty[i]->dirty = 0;
        if (dirty[i]->fd >= 0 && dirty[i]->state != CONNECTING) flush(dirty[i]);
    }
    dirty_count = 0;
}

/* -- opening -------------------------------------------------------------------------------- */

static void put_in_queue(Connection *c)
{
    c->state = WAITING;
    queue[(queue_head + queue_length++) % plan.connections] = c->index;
}

static void hang_up(Connection *c)
{
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->generation++;
    c->wants_write = c->upgraded = c->fragmented = 0;
    c->rest.length = c->message.length = c->out.length = 0;
}

static void forget(Connection *c)
{
    if (c->receives < 0) return;
    Channel *ch = &channels[c->receives];
    loss.lost += ch->sent - ch->done;
    ch->done = c->next = ch->sent;
}

/* A connection has ended: the end of the run, or if the plan says so, the beginning of another. */
static void lose(Connection *c, const char *why)
{
    if (!plan.reconnect || !c->came_back)
        fail(NULL, "connection %d, step %d: %s", c->index, c->step, why);
    if (c->state == OPEN) {
        forget(c);
        opened--;
        loss.disconnects++;
        c->began = now();
        c->not_before = 0;
        if (!loss.first) loss.first = c->began;
    } else {
        in_flight--;
        c->not_before = now() + AGAIN;
    }
    hang_up(c);
    if (!stopping) put_in_queue(c);
    else c->state = IDLE;
}

static void dial(Connection *c, int port)
{
    hang_up(c);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) fail(NULL, "socket: %s", strerror(errno));
    int one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET};
    if (c->index >= PER_ADDRESS) {
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(c->index / PER_ADDRESS));
        if (bind(c->fd, (struct sockaddr *)&address, sizeof address))
            fail(NULL, "bind: %s", strerror(errno));
    }
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons((uint16_t)port);
    int result = connect(c->fd, (struct sockaddr *)&address, sizeof address);
    c->state = CONNECTING;
    watch(c, EPOLL_CTL_ADD, EPOLLOUT);
    if (result && errno != EINPROGRESS) lose(c, strerror(errno));
}

static void say_step(Connection *c)
{
    const Step *step = &plan.step[c->step];
    if (!step->request.count) return;
    Message made = fill(&step->request, c, c->receives < 0 ? 0 : c->receives, c->index);
    if (step->kind == MESSAGE) {
        put_frame(c, plan.opcode, made.text.data, made.text.length, NULL, 0, NULL);
    } else {
        append(&c->out, made.text.data, made.text.length);
        mark_dirty(c);
    }
    release(&made.text);
}

static void is_open(Connection *c)
{
    uint64_t at = now();
    c->state = OPEN;
    in_flight--;
    opened++;
    if (c->came_back) {
        record(&loss.away, at - c->began);
        loss.reopened++;
        loss.last = at;
        if (c->publishes >= 0) fill_window(c->publishes, at);
    } else {
        record(&opening_times, at - c->began);
    }
    c->came_back = 1;
}

static void next_step(Connection *c)
{
    while (c->step < plan.steps) {
        const Step *step = &plan.step[c->step];
        if (step->fresh) {
            dial(c, c->came_back ? step->port_again : step->port);
            return;
        }
        say_step(c);
        if (step->kind != MESSAGE || step->expected.count) return;
        c->step++; /* nothing is expected: on to the next */
    }
    is_open(c);
}

static void open_one(Connection *c)
{
    if (!c->came_back) c->began = now();
    c->step = 0;
    in_flight++;
    next_step(c);
}

static void open_more(void)
{
    while (told_open && in_flight < plan.opening && next_to_open < plan.connections)
        open_one(&connections[next_to_open++]);
    uint64_t at = queue_length ? now() : 0;
    for (int left = queue_length; left && in_flight < plan.opening; left--) {
        Connection *c = &connections[queue[queue_head]];
        queue_head = (queue_head + 1) % plan.connections;
        queue_length--;
        if (c->not_before <= at) open_one(c);
        else put_in_queue(c);
    }
}

static void report_opened(void)
{
    if (told_open != 1 || opened < plan.connections) return;
    told_open = 2;
    double seconds = (double)(now() - open_began) / 1e9;
    printf("{\"opened\":%d,\"seconds\":%.6f,", opened, seconds);
    print_histogram("opening", &opening_times);
    printf(",\"slots\":[");
    for (int i = 0; i < SLOTS; i++)
        printf("%s%zu", i ? "," : "", connections[0].slot[i].length);
    printf("]}\n");
}

static void report_back(void)
{
    if (!wanted_back || loss.reopened < wanted_back) return;
    printf("{\"back\":%llu}\n", (unsigned long long)loss.reopened);
    wanted_back = 0;
}

/* \u0026 is an ampersand in JSON: the one escape that comes in URLs. */
static void unescape(Bytes *text)
{
    char *at = text->data, *end = text->data + text->length;
    while ((at = memmem(at, (size_t)(end - at), "\\u0026", 6))) {
        *at++ = '&';
        memmove(at, at + 5, (size_t)(end - at - 5));
        end -= 5;
    }
    text->length = (size_t)(end - text->data);
}

static void capture(Connection *c, const Step *step, const char *data, size_t length)
{
    for (int i = 0; i < step->captures; i++) {
        const Capture *wanted = &step->capture[i];
        const Bytes got = {(char *)data, length, length};
        char *from = memmem(data, length, wanted->before.data, wanted->before.length);
        if (!from) fail(&got, "connection %d, step %d: something is missing", c->index, c->step);
        from += wanted->before.length;
        size_t left = length - (size_t)(from - data);
        char *to = memmem(from, left, wanted->after.data, wanted->after.length);
        if (!to) fail(&got, "connection %d, step %d: something has no end", c->index, c->step);
        c->slot[wanted->slot].length = 0;
        append(&c->slot[wanted->slot], from, (size_t)(to - from));
        unescape(&c->slot[wanted->slot]);
    }
}

static int is_expected(Connection *c, const Step *step, const char *data, size_t length)
{
    Message wanted = fill(&step->expected, c, c->receives < 0 ? 0 : c->receives, c->index);
    size_t prefix = wanted.text.length;
    int right = step->exact ? length == prefix : length >= prefix;
    right = right && !memcmp(data, wanted.text.data, prefix);
    release(&wanted.text);
    return right;
}

/* The answer to a step is whole. */
static void step_answered(Connection *c, const char *data, size_t length)
{
    const Step *step = &plan.step[c->step];
    const Bytes got = {(char *)data, length, length};
    if (!is_expected(c, step, data, length)) {
        if (!c->came_back) fail(&got, "connection %d, step %d is refused", c->index, c->step);
        lose(c, "refused");
        return;
    }
    capture(c, step, data, length);
    c->upgraded = c->upgraded || step->kind == UPGRADE;
    c->step++;
    next_step(c);
}

/* -- receiving ------------------------------------------------------------------------------ */

static void complete(int channel, uint64_t at)
{
    Channel *ch = &channels[channel];
    ch->done++;
    phase.completed++;
    if (ch->last && at - ch->last > ch->gap) ch->gap = at - ch->last;
    ch->last = at;
    fill_window(channel, at);
}

static void learn(const char *data, size_t length)
{
    printf("{\"reply\":\"");
    for (size_t i = 0; i < length; i++) printf("%02x", (unsigned char)data[i]);
    printf("\"}\n");
}

/* Where connections may be lost, so may what was asked on them. */
static int is_refused(const char *data, size_t length, const char *id)
{
    return plan.reconnect && memmem(data, length, id, ID_LENGTH) &&
           memmem(data, length, plan.refusal.data, plan.refusal.length);
}

static void take_answer(Connection *c, const char *data, size_t length, uint64_t at)
{
    const Bytes got = {(char *)data, length, length};
    if (c->receives < 0) fail(&got, "connection %d expects nothing", c->index);
    Channel *ch = &channels[c->receives];
    if (!ch->reply) {
        ch->done = c->next = ch->sent;
        learn(data, length);
        return;
    }
    char id[ID_LENGTH];
    write_id(id, c->receives, c->next);
    if (c->next == ch->sent) fail(&got, "connection %d expects nothing now", c->index);
    if (!matches(ch->reply, data, length, id)) {
        if (is_refused(data, length, id)) {
            loss.lost++;
            c->next++;
            complete(c->receives, at);
            return;
        }
        fail(&got, "connection %d expects the answer to %.*s", c->index, ID_LENGTH, id);
    }
    Flight *flight = &ch->flights[c->next++ % (uint32_t)plan.window];
    record(&phase.latency, at - flight->sent);
    phase.deliveries++;
    total++;
    uint64_t tick = (at - phase.began) / TICK;
    if (tick < TICKS) phase.ticks[tick]++;
    if (--flight->left == 0) complete(c->receives, at);
}

static void take_message(Connection *c, const char *data, size_t length, uint64_t at)
{
    if (equal(&plan.ping, data, length)) {
        if (plan.pong.length)
            put_frame(c, plan.opcode, plan.pong.data, plan.pong.length, NULL, 0, NULL);
    } else if (plan.noop.length && equal(&plan.noop, data, length)) {
        return;
    } else if (plan.reconnect && starts_with(data, length, &plan.goodbye)) {
        return; /* the end of the connection follows */
    } else if (c->state == OPEN) {
        take_answer(c, data, length, at);
    } else {
        step_answered(c, data, length);
    }
}

/* Splits a WebSocket message into those of the protocol; each keeps its framing. */
static void split(Connection *c, const char *data, size_t length, uint64_t at)
{
    const Bytes got = {(char *)data, length, length};
    while (length && c->fd >= 0) {
        size_t one = length;
        /* A SignalR handshake ends with a separator, whatever the protocol after it. */
        Split by = plan.split != WHOLE && c->state != OPEN && data[0] == '{' ? RECORD_SEPARATOR
                                                                             : plan.split;
        if (by == RECORD_SEPARATOR) {
            const char *end = memchr(data, 0x1e, length);
            if (!end) fail(&got, "connection %d: a message has no end", c->index);
            one = (size_t)(end - data) + 1;
        } else if (by == VARINT) {
            size_t digits = 0, value = 0;
            do value |= (size_t)(data[digits] & 0x7f) << (7 * digits);
            while (data[digits++] & 0x80 && digits < length && digits < 5);
            one = digits + value;
            if (one > length) fail(&got, "connection %d: a message has no end", c->index);
        }
        take_message(c, data, one, at);
        data += one;
        length -= one;
    }
}

static void take_frame(Connection *c, int first, const char *data, size_t length, uint64_t at)
{
    int opcode = first & 15, final = first & 0x80;
    if (opcode == 9) {
        put_frame(c, 10, data, length, NULL, 0, NULL);
    } else if (opcode == 8) {
        lose(c, "the server sent a close frame");
    } else if (opcode == 10) {
        return;
    } else if (final && opcode) {
        if (c->fragmented) fail(NULL, "connection %d: a message in a message", c->index);
        if (c->state == OPEN && opcode != plan.opcode)
            fail(NULL, "connection %d: opcode %d", c->index, opcode);
        split(c, data, length, at);
    } else {
        if ((opcode == 0) != c->fragmented) fail(NULL, "connection %d: a fragment of nothing", c->index);
        append(&c->message, data, length);
        c->fragmented = !final;
        if (!final) return;
        Bytes whole = c->message;
        c->message = (Bytes){0};
        split(c, whole.data, whole.length, at);
        release(&whole);
    }
}

/* Takes all whole frames; how many bytes they were. */
static size_t take_frames(Connection *c, const char *data, size_t length, uint64_t at)
{
    size_t used = 0;
    while (length - used >= 2 && c->fd >= 0) {
        const unsigned char *head = (const unsigned char *)data + used;
        size_t size = head[1] & 0x7f, header = 2;
        if (head[1] & 0x80) fail(NULL, "connection %d: a masked frame", c->index);
        if (head[0] & 0x70) fail(NULL, "connection %d: a reserved bit is set", c->index);
        if (size == 126) header = 4;
        if (size == 127) header = 10;
        if (length - used < header) break;
        if (header > 2) {
            size = 0;
            for (size_t i = 2; i < header; i++) size = size << 8 | head[i];
        }
        if (length - used - header < size) break;
        take_frame(c, head[0], data + used + header, size, at);
        used += header + size;
    }
    return used;
}

/* Takes an HTTP response if it is whole; how many bytes it was. */
static size_t take_response(Connection *c, const char *data, size_t length)
{
    char *end = memmem(data, length, "\r\n\r\n", 4);
    if (!end) return 0;
    size_t used = (size_t)(end - data) + 4, body = 0;
    if (plan.step[c->step].kind == HTTP) {
        char head[4096];
        size_t size = used < sizeof head ? used : sizeof head - 1;
        memcpy(head, data, size);
        head[size] = 0;
        char *found = strcasestr(head, "\r\ncontent-length:");
        if (found) {
            body = strtoul(found + 17, NULL, 10);
        } else {
            const Bytes got = {(char *)data, length, length};
            if (!strcasestr(head, "\r\ntransfer-encoding: chunked"))
                fail(&got, "connection %d: a response without an end", c->index);
            char *last = memmem(data + used - 2, length - used + 2, "\r\n0\r\n\r\n", 7);
            if (!last) return 0;
            body = (size_t)(last + 7 - data) - used;
        }
    }
    if (length - used < body) return 0;
    step_answered(c, data, used + body);
    return used + body;
}

static void take(Connection *c, const char *data, size_t length, uint64_t at)
{
    size_t used = 0;
    int generation = c->generation;
    if (!c->upgraded) used = take_response(c, data, length);
    if (c->upgraded && c->generation == generation)
        used += take_frames(c, data + used, length - used, at);
    if (c->generation != generation) return; /* it is another connection now */
    Bytes rest = {0};
    if (used < length) append(&rest, data + used, length - used);
    release(&c->rest);
    c->rest = rest;
}

static void receive(Connection *c)
{
    static char buffer[READ_SIZE];
    ssize_t count = recv(c->fd, buffer, sizeof buffer, 0);
    if (count < 0 && errno == EAGAIN) return;
    if (count <= 0) {
        lose(c, count ? strerror(errno) : "the server has closed it");
        return;
    }
    uint64_t at = now();
    if (!c->rest.length) {
        take(c, buffer, (size_t)count, at);
        return;
    }
    Bytes whole = c->rest;
    c->rest = (Bytes){0};
    append(&whole, buffer, (size_t)count);
    take(c, whole.data, whole.length, at);
    release(&whole);
}

static void connected(Connection *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error) {
        lose(c, strerror(error));
        return;
    }
    c->state = OPENING;
    watch(c, EPOLL_CTL_MOD, EPOLLIN);
    say_step(c);
}

/* -- phases --------------------------------------------------------------------------------- */

static void begin_phase(void)
{
    memset(&phase, 0, sizeof phase);
    memset(&loss, 0, sizeof loss);
    phase.began = now();
    phase.cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < plan.pids; i++) phase.server_cpu[i] = cpu_of(plan.pid[i]);
    for (int i = 0; i < plan.channels; i++) channels[i].gap = 0;
}

static void print_gaps(uint64_t at)
{
    static Histogram gaps;
    memset(&gaps, 0, sizeof gaps);
    for (int i = 0; i < plan.channels; i++) {
        Channel *ch = &channels[i];
        uint64_t open = ch->last && ch->sent > ch->done ? at - ch->last : 0;
        record(&gaps, open > ch->gap ? open : ch->gap);
    }
    print_histogram("gaps", &gaps);
}

static void print_phase(void)
{
    uint64_t at = now();
    printf("{\"phase\":{\"seconds\":%.6f,\"deliveries\":%llu,\"completed\":%llu,\"skipped\":%llu,",
           (double)(at - phase.began) / 1e9, (unsigned long long)phase.deliveries,
           (unsigned long long)phase.completed, (unsigned long long)phase.skipped);
    printf("\"load_cpu\":%.6f,\"server_cpu\":[", seconds_of(CLOCK_PROCESS_CPUTIME_ID) - phase.cpu);
    for (int i = 0; i < plan.pids; i++) {
        double used = cpu_of(plan.pid[i]);
        printf("%s%.6f", i ? "," : "", used < 0 ? -1 : used - phase.server_cpu[i]);
    }
    printf("],");
    print_histogram("latency", &phase.latency);
    printf(",");
    print_gaps(at);
    printf(",\"disconnects\":%llu,\"reopened\":%llu,\"lost\":%llu,\"back\":%.6f,",
           (unsigned long long)loss.disconnects, (unsigned long long)loss.reopened,
           (unsigned long long)loss.lost,
           loss.last > loss.first ? (double)(loss.last - loss.first) / 1e9 : 0);
    print_histogram("away", &loss.away);
    printf(",\"tick\":%.3f,\"ticks\":[", (double)TICK / 1e9);
    uint64_t ticks = (at - phase.began) / TICK;
    for (uint64_t i = 0; i < ticks && i < TICKS; i++) printf("%s%u", i ? "," : "", phase.ticks[i]);
    printf("]}}\n");
}

static void finish(void)
{
    uint64_t missing = 0;
    for (int i = 0; i < plan.channels; i++) missing += channels[i].sent - channels[i].done;
    uint64_t patience = (uint64_t)plan.patience * (SECOND / 1000);
    if (missing && now() - stop_began < patience) return;
    if (missing) fail(NULL, "%llu messages are missing answers", (unsigned long long)missing);
    printf("{\"done\":{\"checked\":%llu}}\n", (unsigned long long)total);
    fflush(stdout);
    _exit(0);
}

static void obey(char *command)
{
    if (!strcmp(command, "open")) {
        told_open = 1;
        open_began = now();
    } else if (!strcmp(command, "ask")) {
        fill_channels();
        request(0, now());
    } else if (!strcmp(command, "begin") || !strncmp(command, "rate ", 5)) {
        fill_channels();
        double rate = command[0] == 'r' ? strtod(command + 5, NULL) : 0;
        pace = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
        next_send = now();
        sending = 1;
        begin_phase();
        for (int i = 0; i < plan.channels; i++) fill_window(i, next_send);
    } else if (!strcmp(command, "mark")) {
        print_phase();
        begin_phase();
    } else if (!strncmp(command, "back ", 5)) {
        wanted_back = strtoul(command + 5, NULL, 10);
    } else if (!strcmp(command, "stop")) {
        sending = 0;
        stopping = 1;
        stop_began = now();
    } else {
        fail(NULL, "unknown command %s", command);
    }
}

static void read_commands(void)
{
    static char line[256];
    static size_t length;
    ssize_t count = read(0, line + length, sizeof line - length - 1);
    if (count <= 0) _exit(2); /* who drives it has gone */
    length += (size_t)count;
    char *end;
    while ((end = memchr(line, '\n', length))) {
        *end = 0;
        obey(line);
        length -= (size_t)(end + 1 - line);
        memmove(line, end + 1, length);
    }
}

/* -- the loop ------------------------------------------------------------------------------- */

static void set_timer(void)
{
    uint64_t at = queue_length || stopping ? now() + SECOND / 100 : 0;
    if (sending && pace && (!at || next_send < at)) at = next_send;
    struct itimerspec when = {.it_value = {(time_t)(at / SECOND), (long)(at % SECOND)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void handle(const struct epoll_event *event)
{
    Connection *c = event->data.ptr;
    uint64_t expirations;
    if (!c) read_commands();
    else if ((void *)c == (void *)&timer) (void)!read(timer, &expirations, sizeof expirations);
    else if (c->fd < 0) return;
    else if (c->state == CONNECTING) connected(c);
    else {
        if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(c);
        if (event->events & EPOLLOUT && c->fd >= 0 && c->wants_write) mark_dirty(c);
    }
}

int main(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    read_plan();
    epoll = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event commands = {.events = EPOLLIN}, ticking = {EPOLLIN, {.ptr = &timer}};
    epoll_ctl(epoll, EPOLL_CTL_ADD, 0, &commands);
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &ticking);
    begin_phase();
    for (;;) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) handle(&events[i]);
        keep_pace(now());
        open_more();
        report_opened();
        report_back();
        flush_all();
        if (stopping) finish();
        set_timer();
        fflush(stdout);
    }
}
