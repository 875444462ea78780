// A stand-in for S3 in memory, fast enough that a benchmark measures the client and not the server.
//
//	s3server PORT
//
// Knows what the benchmark's clients send: PUT, GET with ranges, HEAD, multipart uploads, ListObjectsV2, create-if-absent,
// aws-chunked bodies. Checks no signatures, and its ETags are counters: an MD5 would be the server's cost.
package main

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

type object struct {
	parts [][]byte
	size  int64
	tag   string
}

type store struct {
	sync.RWMutex
	objects map[string]*object
	sorted  []string // nil when stale
	uploads map[string]map[int][]byte
	count   int
}

var modified = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func main() {
	s := &store{objects: map[string]*object{}, uploads: map[string]map[int][]byte{}}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], s))
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	switch {
	case r.Method == "GET" && key == "":
		s.list(w, query)
	case r.Method == "GET" || r.Method == "HEAD":
		s.get(w, r, key)
	case r.Method == "PUT" && query.Has("uploadId"):
		s.part(w, r, query)
	case r.Method == "PUT":
		s.put(w, r, key)
	case r.Method == "POST" && query.Has("uploads"):
		s.begin(w, key)
	case r.Method == "POST" && query.Has("uploadId"):
		s.complete(w, r, key, query.Get("uploadId"))
	case r.Method == "DELETE":
		s.Lock()
		delete(s.objects, key)
		s.sorted = nil
		s.Unlock()
		w.WriteHeader(204)
	default:
		w.WriteHeader(400)
	}
}

func body(r *http.Request) ([]byte, error) {
	if !strings.Contains(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING") {
		data := make([]byte, r.ContentLength)
		_, err := io.ReadFull(r.Body, data)
		return data, err
	}
	size, _ := strconv.Atoi(r.Header.Get("X-Amz-Decoded-Content-Length"))
	data := make([]byte, 0, size)
	reader := bufio.NewReaderSize(r.Body, 1<<16)
	for {
		line, err := reader.ReadString('\n')
		if err != nil {
			return data, err
		}
		length, err := strconv.ParseInt(strings.TrimSpace(strings.SplitN(line, ";", 2)[0]), 16, 64)
		if err != nil || length == 0 {
			io.Copy(io.Discard, reader)
			return data, err
		}
		start := len(data)
		data = append(data, make([]byte, length)...)
		if _, err := io.ReadFull(reader, data[start:]); err != nil {
			return data, err
		}
		reader.Discard(2)
	}
}

func (s *store) keep(key string, parts [][]byte) string {
	total := int64(0)
	for _, part := range parts {
		total += int64(len(part))
	}
	s.count++
	tag := fmt.Sprintf("\"%032x\"", s.count)
	s.objects[key] = &object{parts, total, tag}
	s.sorted = nil
	return tag
}

func (s *store) put(w http.ResponseWriter, r *http.Request, key string) {
	data, err := body(r)
	if err != nil {
		w.WriteHeader(400)
		return
	}
	s.Lock()
	defer s.Unlock()
	if r.Header.Get("If-None-Match") == "*" && s.objects[key] != nil {
		w.WriteHeader(412)
		return
	}
	w.Header().Set("ETag", s.keep(key, [][]byte{data}))
}

func (s *store) get(w http.ResponseWriter, r *http.Request, key string) {
	s.RLock()
	found := s.objects[key]
	s.RUnlock()
	if found == nil {
		w.WriteHeader(404)
		return
	}
	start, end, status := int64(0), found.size, 200
	if span, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
		first, last, _ := strings.Cut(span, "-")
		start, _ = strconv.ParseInt(first, 10, 64)
		if stop, err := strconv.ParseInt(last, 10, 64); err == nil && stop+1 < end {
			end = stop + 1
		}
		status = 206
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", start, end-1, found.size))
	}
	header := w.Header()
	header.Set("ETag", found.tag)
	header.Set("Accept-Ranges", "bytes")
	header.Set("Last-Modified", modified.Format(http.TimeFormat))
	header.Set("Content-Type", "binary/octet-stream")
	header.Set("Content-Length", strconv.FormatInt(end-start, 10))
	w.WriteHeader(status)
	if r.Method == "HEAD" {
		return
	}
	offset := int64(0)
	for _, part := range found.parts {
		low, high := max(start-offset, 0), min(end-offset, int64(len(part)))
		if low < high {
			w.Write(part[low:high])
		}
		offset += int64(len(part))
	}
}

func (s *store) begin(w http.ResponseWriter, key string) {
	s.Lock()
	s.count++
	id := fmt.Sprintf("upload-%d", s.count)
	s.uploads[id] = map[int][]byte{}
	s.Unlock()
	fmt.Fprintf(w, "<InitiateMultipartUploadResult><Bucket>bucket</Bucket><Key>%s</Key><UploadId>%s</UploadId></InitiateMultipartUploadResult>", key, id)
}

func (s *store) part(w http.ResponseWriter, r *http.Request, query url.Values) {
	data, err := body(r)
	number, _ := strconv.Atoi(query.Get("partNumber"))
	s.Lock()
	defer s.Unlock()
	upload := s.uploads[query.Get("uploadId")]
	if err != nil || upload == nil {
		w.WriteHeader(400)
		return
	}
	upload[number] = data
	w.Header().Set("ETag", fmt.Sprintf("\"part-%d\"", number))
}

func (s *store) complete(w http.ResponseWriter, r *http.Request, key, id string) {
	io.Copy(io.Discard, r.Body)
	s.Lock()
	defer s.Unlock()
	upload := s.uploads[id]
	delete(s.uploads, id)
	numbers := make([]int, 0, len(upload))
	for number := range upload {
		numbers = append(numbers, number)
	}
	sort.Ints(numbers)
	parts := make([][]byte, 0, len(numbers))
	for _, number := range numbers {
		parts = append(parts, upload[number])
	}
	fmt.Fprintf(w, "<CompleteMultipartUploadResult><Key>%s</Key><ETag>%s</ETag></CompleteMultipartUploadResult>", key, s.keep(key, parts))
}

type entry struct {
	Key          string
	LastModified string
	ETag         string
	Size         int64
}

type listing struct {
	XMLName               xml.Name `xml:"ListBucketResult"`
	Name                  string
	Prefix                string
	KeyCount              int
	MaxKeys               int
	IsTruncated           bool
	NextContinuationToken string `xml:",omitempty"`
	Contents              []entry
}

func (s *store) list(w http.ResponseWriter, query url.Values) {
	s.Lock()
	defer s.Unlock()
	if s.sorted == nil {
		s.sorted = make([]string, 0, len(s.objects))
		for key := range s.objects {
			s.sorted = append(s.sorted, key)
		}
		sort.Strings(s.sorted)
	}
	prefix := query.Get("prefix")
	after := max(query.Get("continuation-token"), query.Get("start-after"))
	limit := 1000
	if wanted, err := strconv.Atoi(query.Get("max-keys")); err == nil && wanted < limit {
		limit = wanted
	}
	result := listing{Name: "bucket", Prefix: prefix, MaxKeys: limit}
	place := max(sort.SearchStrings(s.sorted, prefix), sort.Search(len(s.sorted), func(i int) bool { return s.sorted[i] > after }))
	for ; place < len(s.sorted) && strings.HasPrefix(s.sorted[place], prefix); place++ {
		if len(result.Contents) == limit {
			result.IsTruncated = true
			result.NextContinuationToken = result.Contents[limit-1].Key
			break
		}
		found := s.objects[s.sorted[place]]
		result.Contents = append(result.Contents, entry{s.sorted[place], modified.Format("2006-01-02T15:04:05.000Z"), found.tag, found.size})
	}
	result.KeyCount = len(result.Contents)
	w.Header().Set("Content-Type", "application/xml")
	xml.NewEncoder(w).Encode(result)
}
