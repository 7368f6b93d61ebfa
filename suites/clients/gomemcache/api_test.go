// What gomemcache's own test leaves out: one test for each call that it does not make.

package memcache

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestCompareAndSwap(t *testing.T) {
	c := New(testServer)
	mustSetF(t, c)(&Item{Key: "cas", Value: []byte("first")})
	mine, err := c.Get("cas")
	if err != nil {
		t.Fatal(err)
	}
	other, err := c.Get("cas")
	if err != nil {
		t.Fatal(err)
	}
	other.Value = []byte("second")
	if err := c.CompareAndSwap(other); err != nil {
		t.Fatalf("swap: %v", err)
	}
	mine.Value = []byte("third")
	if err := c.CompareAndSwap(mine); err != ErrCASConflict {
		t.Fatalf("swap of a changed item: %v", err)
	}
	if err := c.Delete("cas"); err != nil {
		t.Fatal(err)
	}
	if err := c.CompareAndSwap(mine); err != ErrCacheMiss {
		t.Fatalf("swap of a deleted item: %v", err)
	}
}

func TestGetMultiOfMany(t *testing.T) {
	c := New(testServer)
	var keys []string
	for n := 0; n < 500; n++ {
		key := fmt.Sprintf("many-%d", n)
		keys = append(keys, key, "not-"+key)
		mustSetF(t, c)(&Item{Key: key, Value: []byte(key), Flags: uint32(n)})
	}
	items, err := c.GetMulti(keys)
	if err != nil || len(items) != 500 {
		t.Fatalf("%d items: %v", len(items), err)
	}
	for n := 0; n < 500; n++ {
		key := fmt.Sprintf("many-%d", n)
		if item := items[key]; item == nil || string(item.Value) != key || item.Flags != uint32(n) {
			t.Fatalf("%s: %v", key, item)
		}
	}
}

func TestFlushAll(t *testing.T) {
	c := New(testServer)
	mustSetF(t, c)(&Item{Key: "flushed", Value: []byte("x")})
	if err := c.FlushAll(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get("flushed"); err != ErrCacheMiss {
		t.Fatalf("get of flushed: %v", err)
	}
}

func TestLargeValue(t *testing.T) {
	c := New(testServer)
	value := bytes.Repeat([]byte("\x00\r\nEND\r\n9"), 90000)
	mustSetF(t, c)(&Item{Key: "large", Value: value})
	item, err := c.Get("large")
	if err != nil || !bytes.Equal(item.Value, value) {
		t.Fatal(err)
	}
	if err := c.Set(&Item{Key: "huge", Value: make([]byte, 2<<20)}); err == nil {
		t.Fatal("2 MiB were stored")
	}
}

func TestKeys(t *testing.T) {
	c := New(testServer)
	longest := strings.Repeat("k", 250)
	mustSetF(t, c)(&Item{Key: longest, Value: []byte("x")})
	if _, err := c.Get(longest); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(&Item{Key: longest + "k"}); err != ErrMalformedKey {
		t.Fatalf("a key that is too long: %v", err)
	}
	if err := c.Touch("nothing", 10); err != ErrCacheMiss {
		t.Fatalf("touch of nothing: %v", err)
	}
	if err := c.Delete("nothing"); err != ErrCacheMiss {
		t.Fatalf("delete of nothing: %v", err)
	}
}

func TestExpiry(t *testing.T) {
	c := New(testServer)
	mustSetF(t, c)(&Item{Key: "soon", Value: []byte("x"), Expiration: 1})
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err := c.Get("soon"); err == ErrCacheMiss {
			return
		}
	}
	t.Fatal("it does not expire")
}
