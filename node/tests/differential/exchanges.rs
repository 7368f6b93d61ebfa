//! Every form of every command that we could think of, wrong ones first of all.

use crate::Pair;

pub(crate) fn check_all(pair: &mut Pair) {
    for line in CLASSIC.iter().chain(META).chain(ADMIN) {
        pair.check(line);
    }
    keys_and_lengths(pair);
    values(pair);
    argument_counts(pair);
    storage_numbers(pair);
    exptimes(pair);
    meta_flags(pair);
    meta_set_forms(pair);
    meta_arithmetic_forms(pair);
    winning(pair);
    base64(pair);
    lines(pair);
}

const CLASSIC: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r\r\n",
    b" \r\n",
    b"x\r\n",
    b"xx\r\n",
    b"GET a\r\n",
    b"get\r\n",
    b"get \r\n",
    b"gets\r\n",
    b"get a\r\n",
    b"bget a\r\n",
    b"set a 5 0 3\r\nabc\r\n",
    b"bget a\r\n",
    b"get a\r\n",
    b"get a\n",
    b"  get   a   b  \r\n",
    b"get a\ta\r\n",
    b"get a\rb\r\n",
    b"set a\rb 0 0 1\r\nx\r\n",
    b"get a\rb a\r\n",
    b"gets a a\rb a\r\n",
    b"get a zz\0q b cc\r\n",
    b"get a\0\r\n",
    b"set a 5 0 3\nabc\r\n",
    b"set a 5 0 3\r\nabcd\r\n",
    b"set a 5 0 3\r\nab\r\n\r\n",
    b"set a 5 0 3 noreply\r\nabcd\r\n",
    b"set a 0 0 0\r\n\r\n",
    b"get a\r\n",
    b"set a 0 0 2 noreply\r\nhi\r\n",
    b"get a\r\n",
    b"set a 0 0 2 norepl\r\nhi\r\n",
    b"set noreply 0 0 noreply\r\n",
    b"add a 0 0 1\r\nx\r\n",
    b"add b 0 0 1\r\nx\r\n",
    b"add a 0 0 1 noreply\r\nx\r\n",
    b"replace a 1 0 1\r\ny\r\n",
    b"replace nope 0 0 1\r\ny\r\n",
    b"append a 9 0 2\r\nzz\r\n",
    b"prepend a 9 0 2\r\nww\r\n",
    b"gets a\r\n",
    b"append nope 0 0 1\r\nx\r\n",
    b"prepend nope 0 0 1\r\nx\r\n",
    b"append a 0 0 0\r\n\r\n",
    b"cas a 0 0 1 1\r\nx\r\n",
    b"cas a 0 0 1 0\r\nx\r\n",
    b"cas nope 0 0 1 1\r\nx\r\n",
    b"cas nope 0 0 1 0\r\nx\r\n",
    b"cas a 0 0 1\r\nx\r\n",
    b"cas a 0 0 1 x\r\n",
    b"cas a 0 0 1 -1\r\n",
    b"cas a 0 0 1 1 noreply\r\nx\r\n",
    b"cas a 0 0 1 1 noreply x\r\nx\r\n",
    b"touch a 0\r\n",
    b"touch a 1000\r\n",
    b"touch nope 0\r\n",
    b"touch a x\r\n",
    b"touch a\r\n",
    b"touch a 0 noreply\r\n",
    b"touch a x noreply\r\n",
    b"touch a 0 other\r\n",
    b"gat 0 a\r\n",
    b"gats 0 a b nope\r\n",
    b"gat 0\r\n",
    b"gat a\r\n",
    b"gat\r\n",
    b"gat x a\r\n",
    b"gat -1 b\r\n",
    b"get b\r\n",
    b"delete a\r\n",
    b"delete a\r\n",
    b"delete a 0\r\n",
    b"delete a 1\r\n",
    b"delete a noreply\r\n",
    b"delete a 0 noreply\r\n",
    b"delete a 1 noreply\r\n",
    b"delete a 0 x\r\n",
    b"delete a noreply noreply\r\n",
    b"delete a 0 0 0\r\n",
    b"delete\r\n",
    b"incr n 1\r\n",
    b"decr n 1\r\n",
    b"set n 3 0 2\r\n10\r\n",
    b"incr n 5\r\n",
    b"decr n 6\r\n",
    b"get n\r\n",
    b"incr n 1\r\n",
    b"decr n 100\r\n",
    b"gets n\r\n",
    b"incr n 18446744073709551615\r\n",
    b"incr n 1\r\n",
    b"incr n 18446744073709551616\r\n",
    b"incr n -1\r\n",
    b"incr n x\r\n",
    b"incr n 1x\r\n",
    b"incr n\r\n",
    b"incr n 1 noreply\r\n",
    b"incr n x noreply\r\n",
    b"incr nope 1 noreply\r\n",
    b"incr n 1 other\r\n",
    b"incr n 1 noreply x\r\n",
    b"get n\r\n",
    b"append n 0 0 1\r\n0\r\n",
    b"get n\r\n",
    b"incr n 5\r\n",
    b"set n 0 0 0\r\n\r\n",
    b"incr n 1\r\n",
    b"set n 0 0 3\r\nabc\r\n",
    b"incr n 1\r\n",
    b"set n 0 0 3\r\n1 2\r\n",
    b"incr n 1\r\n",
    b"get n\r\n",
    b"set n 0 0 3\r\n 12\r\n",
    b"incr n 1\r\n",
    b"get n\r\n",
    b"set n 0 0 3\r\n1\0z\r\n",
    b"incr n 1\r\n",
    b"get n\r\n",
    b"set n 0 0 2\r\n-1\r\n",
    b"incr n 1\r\n",
    b"set n 0 0 2\r\n+1\r\n",
    b"incr n 1\r\n",
    b"get n\r\n",
    b"set n 0 0 30\r\n000000000000000000000000000009\r\n",
    b"incr n 1\r\n",
    b"get n\r\n",
    b"flush_all noreply\r\n",
    b"get n\r\n",
    b"set n 0 0 1\r\n1\r\n",
    b"gets n\r\n",
    b"flush_all 0\r\n",
    b"gets n\r\n",
    b"flush_all 0 noreply\r\n",
    b"flush_all -1\r\n",
    b"flush_all x\r\n",
    b"flush_all x noreply\r\n",
    b"flush_all noreply 1\r\n",
    b"flush_all 0 0\r\n",
    b"flush_all 0 0 0\r\n",
    b"flush_all \r\n",
    b"set n 0 0 1\r\n1\r\n",
    b"flush_all 1000\r\n",
    b"get n\r\n",
    b"flush_all\r\n",
];

const ADMIN: &[&[u8]] = &[
    b"version\r\n",
    b"version x\r\n",
    b"verbosity\r\n",
    b"verbosity 0\r\n",
    b"verbosity x\r\n",
    b"verbosity -1\r\n",
    b"verbosity 0 noreply\r\n",
    b"verbosity noreply\r\n",
    b"verbosity 0 0 0\r\n",
    b"stats nope\r\n",
    b"stats noreply\r\n",
    b"stats sizes\r\n",
    b"stats cachedump\r\n",
    b"stats cachedump 1\r\n",
    b"stats cachedump x 1\r\n",
    b"stats cachedump 64 1\r\n",
    b"stats cachedump 63 1\r\n",
    b"stats reset\r\n",
    b"cache_memlimit\r\n",
    b"cache_memlimit x\r\n",
    b"cache_memlimit 7\r\n",
    b"cache_memlimit 64\r\n",
    b"cache_memlimit 1000000001\r\n",
    b"cache_memlimit 64 noreply\r\n",
    b"lru_crawler\r\n",
    b"lru_crawler enable\r\n",
    b"lru_crawler nope\r\n",
    b"lru_crawler crawl\r\n",
    b"lru_crawler crawl x\r\n",
    b"lru_crawler crawl 0\r\n",
    b"lru_crawler crawl 64\r\n",
    b"lru_crawler crawl ,\r\n",
    b"lru_crawler crawl hash\r\n",
    b"lru_crawler metadump\r\n",
    b"lru_crawler metadump x\r\n",
    b"lru_crawler metadump 1 2\r\n",
    b"lru_crawler mgdump all\r\n",
    b"lru_crawler tocrawl x\r\n",
    b"lru_crawler tocrawl 0\r\n",
    b"lru_crawler sleep 100\r\n",
    b"lru_crawler sleep 1000001\r\n",
    b"lru_crawler sleep x\r\n",
    b"shutdown\r\n",
    b"misbehave\r\n",
    b"debugtime 1\r\n",
    b"quit\r\n",
    b"quit now\r\nget a\r\n",
    b"GET / HTTP/1.1\r\n",
    b"POST /x HTTP/1.0\r\n",
    b"get / HTTP/1.1\r\n",
    b"touch / / / / HTTP/1.1\r\n",
    b"replace / HTTP/1.1\r\n",
    b"mx HTTP/1.1\r\n",
    b"\x80\0\0\0\r\n",
];

const META: &[&[u8]] = &[
    b"m\r\n",
    b"mx\r\n",
    b"mgx a\r\n",
    b"mn\r\n",
    b"mn x y\r\n",
    b"mg\r\n",
    b"mg \r\n",
    b"ms\r\n",
    b"md\r\n",
    b"ma\r\n",
    b"me\r\n",
    b"ms a\r\n",
    b"ms a x\r\n",
    b"ms a -1\r\n",
    b"ms a 2147483646\r\n",
    b"ms a 2147483648\r\n",
    b"ms a S2\r\n",
    b"ms a 2\r\nhi\r\n",
    b"ms a 2\r\nhix\r\n",
    b"ms a 2 q\r\nhix\r\n",
    b"me a\r\n",
    b"me a b\r\n",
    b"me a x\r\n",
    b"me nope\r\n",
    b"me nope q\r\n",
    b"me nope b\r\n",
    b"mg a\r\n",
    b"mg nope\r\n",
    b"mg nope q\r\n",
    b"mg nope k q Oabc\r\n",
    b"mg nope k Oabc\r\n",
    b"mg nope v t s f c h l\r\n",
    b"mg a v\r\n",
    b"mg a v q\r\n",
    b"mg a s v t f c k h l Oxyz q\r\n",
    b"mg a O k c f t v s\r\n",
    b"mg a k k\r\n",
    b"mg a \x7f\r\n",
    b"mg a \xff\r\n",
    b"mg a !\r\n",
    b"mg a v v\r\n",
    b"mg a S10\r\n",
    b"mg a E10\r\n",
    b"mg a x\r\n",
    b"mg a C1\r\n",
    b"mg a Cx\r\n",
    b"mg a Fx\r\n",
    b"mg a Fx Tx\r\n",
    b"mg a Tx Fx\r\n",
    b"mg a Mxx !\r\n",
    b"mg a M\r\n",
    b"mg a M1\r\n",
    b"mg a Jx\r\n",
    b"mg a Dx\r\n",
    b"mg a T\r\n",
    b"mg a Nx\r\n",
    b"mg a Rx\r\n",
    b"mg a O1234567890123456789012345678901\r\n",
    b"mg a O12345678901234567890123456789012\r\n",
    b"mg a T70 O12345678901234567890123456789012\r\n",
    b"mg a t\r\n",
    b"mg nope q O12345678901234567890123456789012\r\n",
    b"mg vivid N70 O12345678901234567890123456789012\r\n",
    b"mg vivid t v c\r\n",
    b"mg a v t f s c k h l q u O T0 R0 N0 I P L M1 F1\r\n",
    b"mg a v t f s c k h l q u O T0 R0 N0 I P\r\n",
    b"mg a v t f s c k h l q u O T0 R0 N0 I P L\r\n",
    b"ms a 1 v t f s c k h l q u O T0 R0 N0 I P L\r\n",
    b"md a v t f s c k h l q u O T0 R0 N0 I P L M1\r\n",
    b"ma a v t f s c k h l q u O T0 R0 N0 I P L M1\r\n",
    b"mg a L P\r\n",
    b"mg a u h\r\n",
    b"mg a h\r\n",
    b"mg a T100 t\r\n",
    b"mg a t T-1 t\r\n",
    b"mg a\r\n",
    b"ms a 2 T100\r\nhi\r\n",
    b"mg a T2592001 t\r\n",
    b"mg a v\r\n",
    b"md a\r\n",
    b"ms a 2\r\nhi\r\n",
    b"md a q\r\n",
    b"md a q\r\n",
    b"md a k Oabc q\r\n",
    b"md a k k\r\n",
    b"md a !\r\n",
    b"md a Cx\r\n",
    b"md a x\r\n",
    b"md a Fx\r\n",
    b"md a b\r\n",
    b"md a O12345678901234567890123456789012\r\n",
    b"ms a 2\r\nhi\r\n",
    b"md a C1\r\n",
    b"md a C1 q k O1\r\n",
    b"md a C0\r\n",
    b"md a I T100 k O2\r\n",
    b"mg a t v c\r\n",
    b"mg a t v c\r\n",
    b"md a I q\r\n",
    b"get a\r\n",
    b"mg a\r\n",
    b"md a I C1\r\n",
    b"md a T1 I\r\n",
    b"ms a 2 I\r\nhi\r\n",
    b"mg a v\r\n",
];

/// Keys of 249 to 251 bytes in each command, and binary ones.
fn keys_and_lengths(pair: &mut Pair) {
    for len in [1, 249, 250, 251, 600] {
        let key = "k".repeat(len);
        pair.check(b"set short 0 0 1\r\nx\r\n");
        for form in [
            "set {k} 0 0 1\r\nx\r\n",
            "get {k}\r\n",
            "get short {k} short\r\n",
            "gat 0 {k}\r\n",
            "gets {k} {k}\r\n",
            "touch {k} 0\r\n",
            "touch {k} 0 noreply\r\n",
            "incr {k} 1\r\n",
            "delete {k}\r\n",
            "add {k} 0 0 1 noreply\r\n0\r\n",
            "append {k} 0 0 1\r\n1\r\n",
            "cas {k} 0 0 1 5\r\n1\r\n",
            "decr {k} 1 noreply\r\n",
            "get {k}\r\n",
            "mg {k} k v\r\n",
            "ms {k} 1 k\r\nx\r\n",
            "ma {k} k N0\r\n",
            "me {k}\r\n",
            "md {k} k\r\n",
            "mg {k} b\r\n",
        ] {
            let command = form.replace("{k}", &key);
            // A storage command with too long a key leaves its value to be read as a command.
            pair.check(command.as_bytes());
        }
    }
}

fn values(pair: &mut Pair) {
    let overhead = 48 + 8 + "big".len() + 1 + 2;
    let largest = (1 << 20) - overhead;
    for len in [largest, largest + 1, 2 << 20, 300_000, 600_000] {
        let value = "7".repeat(len);
        pair.check(format!("set big 0 0 {len}\r\n{value}\r\n").as_bytes());
        pair.check(b"mg big s\r\n");
        pair.check(b"incr big 1\r\n");
        pair.check(format!("set big 1 0 {len} noreply\r\n{value}\r\n").as_bytes());
        pair.check(b"mg big s f\r\n");
        pair.check(format!("add big 0 0 {len}\r\n{value}\r\n").as_bytes());
        pair.check(format!("ms big {len} q c k O1\r\n{value}\r\n").as_bytes());
        pair.check(b"me big\r\n");
        pair.check(b"set big 0 0 1\r\nx\r\n");
        pair.check(format!("replace big 0 0 {len}\r\n{value}\r\n").as_bytes());
        pair.check(b"mg big s f\r\n");
        pair.check(b"set big 0 0 1\r\nx\r\n");
        pair.check(format!("ms big {len} MR\r\n{value}\r\n").as_bytes());
        pair.check(b"mg big s f\r\n");
        pair.check(format!("append big 0 0 {len}\r\n{value}\r\n").as_bytes());
        pair.check(format!("ms big {len} MP k\r\n{value}\r\n").as_bytes());
        pair.check(b"get big\r\n");
        pair.check(b"flush_all\r\n");
    }
    // A value of blanks that is larger than a number ever is.
    let padded = format!("5{}", " ".repeat(600_000));
    pair.check(format!("set big 0 0 {}\r\n{padded}\r\nincr big 1\r\n", padded.len()).as_bytes());
    pair.check(format!("set big 0 0 5\r\n{}\r\nincr big 1\r\nget big\r\n", "5    ").as_bytes());
    for size in [1, 40, 50, 60, 100, 120, 1000, 10_000, 100_000, 400_000] {
        let value = "v".repeat(size);
        pair.check(format!("set sized 0 0 {size}\r\n{value}\r\nme sized\r\n").as_bytes());
    }
}

fn argument_counts(pair: &mut Pair) {
    let commands = [
        "set",
        "add",
        "replace",
        "append",
        "prepend",
        "cas",
        "get",
        "gets",
        "gat",
        "gats",
        "delete",
        "incr",
        "decr",
        "touch",
        "flush_all",
        "verbosity",
        "mg",
        "md",
        "ma",
        "me",
        "cache_memlimit",
    ];
    for command in commands {
        for count in 0..10 {
            // Value lengths of "-1" keep the payload out of it.
            let line = format!("{command}{}\r\n", " -1".repeat(count));
            pair.check(line.as_bytes());
            pair.check(line.replace("\r\n", " noreply\r\n").as_bytes());
        }
    }
    pair.check(b"cache_memlimit 64\r\n");
    for count in [21, 22, 23, 24, 25, 46, 47, 100, 1000] {
        pair.check(format!("get{}\r\n", " k".repeat(count)).as_bytes());
        pair.check(format!("get{} \r\n", " k".repeat(count)).as_bytes());
        pair.check(format!("gats 0{}\r\n", " n".repeat(count)).as_bytes());
        pair.check(format!("get{} {}\r\n", " k".repeat(count), "k".repeat(251)).as_bytes());
        pair.check(format!("set{}\r\n", " 1".repeat(count)).as_bytes());
    }
}

fn storage_numbers(pair: &mut Pair) {
    let numbers = [
        "0",
        "1",
        "+1",
        "01",
        "-0",
        "-1",
        "x",
        "1x",
        "1\t",
        "\t1",
        "1\tx",
        "0x1",
        "1.5",
        "",
        "4294967295",
        "4294967296",
        "4294967297",
        "18446744073709551615",
        "18446744073709551616",
        "-4294967295",
        "-18446744073709551615",
        "2147483647",
        "2147483648",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "-9223372036854775809",
    ];
    for number in numbers {
        pair.check(format!("set f {number} 0 1\r\nx\r\n").as_bytes());
        pair.check(b"mg f f t\r\n");
        pair.check(format!("ms f 1 F{number}\r\nx\r\n").as_bytes());
        pair.check(b"mg f f t\r\n");
        pair.check(format!("cas f 0 0 1 {number}\r\nx\r\n").as_bytes());
        pair.check(format!("set n 0 0 1\r\n5\r\nincr n {number}\r\n").as_bytes());
        pair.check(format!("decr n {number}\r\n").as_bytes());
        pair.check(format!("ma n D{number} v\r\nmd n\r\nma n N0 J{number} v\r\n").as_bytes());
        pair.check(format!("ma n C{number}\r\nmd n C{number}\r\n").as_bytes());
        if number
            .parse()
            .is_ok_and(|number: u64| i64::try_from(number).is_err())
        {
            // memcached looks for a minus sign beyond such a value, in memory it does not own.
            continue;
        }
        let len = number.len();
        pair.check(format!("set n 0 0 {len}\r\n{number}\r\nincr n 1\r\nget n\r\n").as_bytes());
    }
    for len in [
        "-1",
        "x",
        "1x",
        "",
        "2147483646",
        "2147483648",
        "-4294967295",
        "4294967297",
        "1\tx",
    ] {
        pair.check(format!("set n 0 0 {len}\r\nx\r\n").as_bytes());
        pair.check(format!("set n 0 0 {len} noreply\r\nx\r\n").as_bytes());
        pair.check(format!("ms n {len}\r\nx\r\n").as_bytes());
    }
    pair.check(b"get f n\r\n");
}

fn exptimes(pair: &mut Pair) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let exptimes = [
        "0".to_owned(),
        "100".to_owned(),
        "-1".to_owned(),
        "-2147483648".to_owned(),
        "2592000".to_owned(),
        "2592001".to_owned(),
        "2678400".to_owned(),
        "2147483647".to_owned(),
        "2147483648".to_owned(),
        "4294967396".to_owned(),
        (now - 1000).to_string(),
        (now - 40).to_string(),
        (now + 1000).to_string(),
    ];
    for exptime in exptimes {
        pair.check(format!("set e 0 {exptime} 1\r\n1\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("set e 0 0 1\r\n1\r\ntouch e {exptime}\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("set e 0 0 1\r\n1\r\ngat {exptime} e\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("ms e 1 T{exptime}\r\n1\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("set e 0 0 1\r\n1\r\nmg e T{exptime}\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("set e 0 0 1\r\n9\r\nma e t T{exptime} t\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("set e 0 0 2\r\n9 \r\nma e t T{exptime} t\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("delete e\r\nma e N{exptime} t\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("delete e\r\nmg e N{exptime} t\r\nmg e t v\r\n").as_bytes());
        pair.check(format!("set e 0 50 1\r\n1\r\nmg e R{exptime} t\r\nmg e t\r\n").as_bytes());
        pair.check(format!("set e 0 50 1\r\n1\r\nmd e I T{exptime}\r\nmg e t\r\n").as_bytes());
        pair.check(b"me e\r\n");
    }
}

/// Each flag alone and with an argument, in each command, on an item that is there or not.
fn meta_flags(pair: &mut Pair) {
    for letter in 33..127_u8 {
        let letter = char::from(letter);
        for argument in ["", "0", "30", "x"] {
            for command in ["mg", "md", "ma"] {
                for prepare in ["delete k\r\n", "set k 7 100 1\r\n5\r\n"] {
                    let line = format!("{prepare}{command} k {letter}{argument} v k\r\nget k\r\n");
                    pair.check(line.as_bytes());
                }
            }
            pair.check(format!("ms k 1 {letter}{argument} k\r\n5\r\n").as_bytes());
            pair.check(format!("mg k {letter}{argument} q k O1 v t c\r\n").as_bytes());
        }
    }
}

fn meta_set_forms(pair: &mut Pair) {
    for mode in ["", "ME", "MA", "MP", "MR", "MS", "Me", "Mx", "M", "MEE"] {
        for compare in ["", "C0", "C1", "C99999999", "Cx"] {
            for stale in ["", "I"] {
                for quiet in ["", "q"] {
                    let flags = format!("{mode} {compare} {stale} {quiet} c k O1");
                    pair.check(format!("delete k\r\nms k 1 {flags}\r\nx\r\n").as_bytes());
                    pair.check(format!("set k 3 100 1\r\ny\r\nms k 1 {flags}\r\nx\r\n").as_bytes());
                    pair.check(b"mg k v f t c s\r\nmg k v f t c s\r\n");
                }
            }
        }
    }
    pair.check(b"ms k 1 O12345678901234567890123456789012\r\nx\r\n");
    pair.check(b"ms k 1 O12345678901234567890123456789012 Mx\r\nx\r\n");
    pair.check(b"ms k 1 k c O123 k\r\nx\r\n");
    pair.check(b"ms k 1 c Ockc k\r\nx\r\n");
    pair.check(b"ms k 5 T100 F5 !\r\nmn \r\n\r\n");
}

fn meta_arithmetic_forms(pair: &mut Pair) {
    for mode in ["", "MI", "MD", "M+", "M-", "Mi", "MII"] {
        for extra in [
            "",
            "D5",
            "D18446744073709551615",
            "J13",
            "N0",
            "N90 J13",
            "C1",
            "T60",
            "q",
        ] {
            for value in ["9", "10", "99", "abc", "", "3  "] {
                let len = value.len();
                let flags = format!("{mode} {extra} t v c k O1");
                pair.check(format!("set n 1 100 {len}\r\n{value}\r\nma n {flags}\r\n").as_bytes());
                pair.check(b"mg n v t f c k\r\nget n\r\n");
            }
            pair.check(format!("delete n\r\nma n {mode} {extra} t v c k O1\r\n").as_bytes());
            pair.check(b"mg n v t f c\r\n");
        }
    }
    pair.check(b"set n 0 0 1\r\n1\r\nma n T9 O12345678901234567890123456789012 v\r\nmg n v t\r\n");
    pair.check(b"ma nope O12345678901234567890123456789012\r\n");
    pair.check(b"delete n\r\nma n N0 T70 t\r\nmg n t\r\n");
}

/// Who may recache: `W`, `X` and `Z`.
fn winning(pair: &mut Pair) {
    for command in [
        "mg w N30 v t",
        "mg w N30 v t",
        "mg w",
        "ms w 1 T100\r\nx",
        "mg w R30 t",
        "mg w R200 t",
        "mg w R200 t",
        "mg w",
        "ms w 1\r\nx",
        "mg w R200 t",
        "md w I T30",
        "get w",
        "gat 100 w",
        "mg w v",
        "mg w v",
        "md w I T30",
        "mg w N30 R100 v t",
        "mg w N30 R100 v t",
        "ms w 1 C1 I c\r\ny",
        "mg w v c",
        "mg w v c",
        "ms w 1 C1 I MR q\r\nz",
        "mg w v",
        "ms w 1 C1 I MA\r\nz",
        "ms w 1 C1 I ME\r\nz",
        "append w 0 0 1\r\n!",
        "mg w v",
        "md w I",
        "touch w 0",
        "mg w v t",
        "mg w T0 R30 t",
        "ms w 1 T90\r\n5",
        "md w I",
        "incr w 1",
        "mg w v",
        "md w I",
        "incr w 5",
        "mg w v",
        "delete w",
        "mg w N0 E5",
        "mg w N-1 t v k",
        "mg w",
    ] {
        pair.check(format!("{command}\r\n").as_bytes());
    }
}

fn base64(pair: &mut Pair) {
    for key in [
        "Zm9v", "Zm8=", "Zg==", "Zg=", "Z===", "Zm9vZ===", "====", "!!!!", "Zm!9v", "AAECAyA=",
        "Zg==Zm9v", "Zm9",
    ] {
        for form in [
            "ms {k} 3 b k c\r\nabc\r\n",
            "mg {k} b k v\r\n",
            "mg {k} k b v\r\n",
            "me {k} b\r\n",
            "me {k} x b\r\n",
            "ma {k} b k N0\r\n",
            "md {k} b k\r\n",
            "mg {k} b k\r\n",
            "ma {k} b k N0 J9\r\n",
            "mg {k} b k v\r\n",
            "ma {k} b k v\r\n",
            "md {k} b k\r\n",
            "mg {k} b N30 k\r\n",
            "ms {k} 1 b MA k\r\n1\r\n",
            "ms {k} 1 b\r\n1\r\n",
            "mg {k} b k\r\n",
            "append foo 0 0 1\r\n2\r\n",
            "mg {k} b k v\r\n",
            "mg foo k\r\n",
            "get foo\r\n",
            "me foo\r\n",
            "ms {k} 1 b b\r\n1\r\n",
            "md {k} b\r\n",
        ] {
            pair.check(form.replace("{k}", key).as_bytes());
        }
    }
}

/// Line ends and long lines.
fn lines(pair: &mut Pair) {
    let long = |len: usize, start: &str| [start, &"k".repeat(len)].concat();
    for line in [
        long(2000, "mg "),
        long(2000, "xx "),
        long(4000, "mg a O"),
        long(16_000, "set "),
        // No line end in memcached's first 16 KiB: only `get` may go on.
        long(17_000, "set "),
        long(17_000, "mg "),
        long(17_000, "gat 0 "),
        long(17_000, "get "),
        long(17_000, "gets "),
        long(17_000, "  get "),
        long(17_000, &format!("{}get ", " ".repeat(100))),
        long(17_000, &format!("{}get ", " ".repeat(101))),
        "get ".to_owned() + &"key ".repeat(10_000),
        "get ".to_owned() + &"key ".repeat(10_000) + &"k".repeat(300),
    ] {
        pair.check(format!("{line}\r\n").as_bytes());
    }
    pair.check(
        b"set p 0 0 1\r\n1\r\nget p\r\ngets p q\r\nmg p v\r\nmg q q\r\nincr p 1\r\ndelete p\r\n",
    );
}
